//! The exact state of a distinct count: the set of the values themselves, so that states of partitions that never
//! met can be put together and still count exactly.
//!
//! Numbers and times are 64-bit words: a short sorted list, or a Roaring bitmap where that is smaller. Texts are
//! sorted and each stored without what it shares with the one before.

use std::collections::HashSet;

use arrow::datatypes::Int64Type;
use roaring::RoaringTreemap;

use super::State;
use super::bytes::{Corrupt, Reader, put_varint};
use super::values::{Kind, Value};

/// Up to so many words are kept in a plain list.
const FEW: usize = 32;
/// What a text costs in memory beside its bytes.
const TEXT_OVERHEAD: usize = 48;

/// How words are stored.
const AS_LIST: u8 = 0;
const AS_BITMAP: u8 = 1;

/// The different values, by kind. Nearly always of one kind.
#[derive(Debug, Default)]
pub(super) struct DistinctSet {
    words: Vec<(Kind, Words)>,
    texts: Vec<(Kind, HashSet<Box<[u8]>>)>,
    heap_bytes: usize,
}

#[derive(Debug)]
enum Words {
    /// Sorted.
    Few(Vec<u64>),
    Many(RoaringTreemap),
}

impl Words {
    /// By how many bytes it has grown, about.
    fn insert(&mut self, word: u64) -> usize {
        match self {
            Self::Few(list) => {
                let Err(position) = list.binary_search(&word) else { return 0 };
                if list.len() < FEW {
                    list.insert(position, word);
                    return size_of::<u64>();
                }
                let mut map: RoaringTreemap = list.iter().copied().collect();
                map.insert(word);
                let grown = map.serialized_size();
                *self = Self::Many(map);
                grown
            }
            // Of an array container two bytes; of a bitmap less.
            Self::Many(map) => usize::from(map.insert(word)) * 2,
        }
    }

    fn union(&mut self, other: RoaringTreemap) -> usize {
        let grown = other.serialized_size();
        match self {
            Self::Many(map) => *map |= other,
            Self::Few(list) => {
                let mut other = other;
                other.extend(list.iter().copied());
                *self = Self::Many(other);
            }
        }
        grown
    }

    fn len(&self) -> u64 {
        match self {
            Self::Few(list) => list.len() as u64,
            Self::Many(map) => map.len(),
        }
    }

    fn encode(self) -> Vec<u8> {
        let list = |words: &mut dyn Iterator<Item = u64>| {
            let mut out = vec![AS_LIST];
            let mut last = 0;
            for word in words {
                put_varint(&mut out, word.wrapping_sub(last));
                last = word;
            }
            out
        };
        match self {
            Self::Few(words) => list(&mut words.into_iter()),
            Self::Many(mut map) => {
                map.optimize();
                let size = map.serialized_size();
                let listed = list(&mut map.iter());
                if listed.len() <= size {
                    return listed;
                }
                let mut out = Vec::with_capacity(size + 1);
                out.push(AS_BITMAP);
                map.serialize_into(&mut out).expect("writing to memory does not fail");
                out
            }
        }
    }
}

impl DistinctSet {
    fn word(&mut self, kind: Kind, word: u64) {
        self.heap_bytes += self.words_of(kind).insert(word);
    }

    fn words_of(&mut self, kind: Kind) -> &mut Words {
        let position = self.words.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.heap_bytes += size_of::<(Kind, Words)>();
            self.words.push((kind, Words::Few(Vec::new())));
            self.words.len() - 1
        });
        &mut self.words[position].1
    }

    fn text(&mut self, kind: Kind, bytes: &[u8]) {
        let position = self.texts.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.heap_bytes += size_of::<(Kind, HashSet<Box<[u8]>>)>();
            self.texts.push((kind, HashSet::new()));
            self.texts.len() - 1
        });
        let texts = &mut self.texts[position].1;
        if !texts.contains(bytes) {
            texts.insert(bytes.into());
            self.heap_bytes += bytes.len() + TEXT_OVERHEAD;
        }
    }

    fn merge_words(&mut self, kind: Kind, count: u64, content: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::new(content);
        match reader.byte()? {
            AS_LIST => {
                let mut word = 0_u64;
                for _ in 0..count {
                    word = word.wrapping_add(reader.varint()?);
                    self.word(kind, word);
                }
                reader.end()
            }
            AS_BITMAP => {
                let mut rest = reader.rest();
                let map = RoaringTreemap::deserialize_from(&mut rest).map_err(|error| Corrupt(error.to_string()))?;
                if map.len() != count || !rest.is_empty() {
                    return Err(Corrupt("its bitmap is not of the length that was written".to_owned()));
                }
                self.heap_bytes += self.words_of(kind).union(map);
                Ok(())
            }
            form => Err(Corrupt(format!("unknown form {form} of a set of words"))),
        }
    }

    fn merge_texts(&mut self, kind: Kind, count: u64, content: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::new(content);
        let mut text = Vec::new();
        for _ in 0..count {
            let shared = reader.length()?;
            if shared > text.len() {
                return Err(Corrupt("a text shares more than the one before has".to_owned()));
            }
            text.truncate(shared);
            let own = reader.length()?;
            text.extend_from_slice(reader.take(own)?);
            self.text(kind, &text);
        }
        reader.end()
    }
}

impl State for DistinctSet {
    type Output = Int64Type;
    const NAME: &'static str = "distinct";
    const PARAMETER: u8 = 1;

    fn add(&mut self, value: Value<'_>) {
        match value {
            Value::Word(kind, word) => self.word(kind, word),
            Value::Bytes(kind, bytes) => self.text(kind, bytes),
        }
    }

    fn merge(&mut self, content: &[u8]) -> Result<(), Corrupt> {
        for Section { kind, count, content } in sections(content)? {
            if kind.is_word() {
                self.merge_words(kind, count, content)?;
            } else {
                self.merge_texts(kind, count, content)?;
            }
        }
        Ok(())
    }

    fn encode(self) -> Vec<u8> {
        let words = self.words.into_iter().map(|(kind, words)| (kind, words.len(), words.encode()));
        let texts = self.texts.into_iter().map(|(kind, texts)| (kind, texts.len() as u64, encode_texts(texts)));
        let mut sections: Vec<_> = words.chain(texts).collect();
        sections.sort_unstable_by_key(|(kind, ..)| *kind);
        let mut out = Vec::with_capacity(sections.iter().map(|(.., content)| content.len() + 12).sum());
        for (kind, count, content) in sections {
            out.push(kind as u8);
            put_varint(&mut out, count);
            put_varint(&mut out, content.len() as u64);
            out.extend_from_slice(&content);
        }
        out
    }

    fn finish(&self, _at: f64) -> Option<i64> {
        let words: u64 = self.words.iter().map(|(_, words)| words.len()).sum();
        let texts: usize = self.texts.iter().map(|(_, texts)| texts.len()).sum();
        Some(i64::try_from(words + texts as u64).unwrap_or(i64::MAX))
    }

    /// The counts are written beside the values, so that nothing needs to be read.
    fn finish_stored(content: &[u8], _at: f64) -> Result<Option<i64>, Corrupt> {
        let total = sections(content)?.iter().fold(0_u64, |total, section| total.saturating_add(section.count));
        Ok(Some(i64::try_from(total).unwrap_or(i64::MAX)))
    }

    fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }
}

fn encode_texts(texts: HashSet<Box<[u8]>>) -> Vec<u8> {
    let mut sorted: Vec<Box<[u8]>> = texts.into_iter().collect();
    sorted.sort_unstable();
    let mut out = Vec::with_capacity(sorted.iter().map(|text| text.len() + 2).sum());
    let mut last: &[u8] = &[];
    for text in &sorted {
        let shared = text.iter().zip(last).take_while(|(a, b)| a == b).count();
        put_varint(&mut out, shared as u64);
        put_varint(&mut out, (text.len() - shared) as u64);
        out.extend_from_slice(&text[shared..]);
        last = text;
    }
    out
}

/// The values of one kind.
struct Section<'a> {
    kind: Kind,
    count: u64,
    content: &'a [u8],
}

fn sections(content: &[u8]) -> Result<Vec<Section<'_>>, Corrupt> {
    let mut reader = Reader::new(content);
    let mut sections = Vec::with_capacity(1);
    while !reader.is_empty() {
        let number = reader.byte()?;
        let kind = Kind::of(number).ok_or_else(|| Corrupt(format!("unknown kind {number} of values")))?;
        let count = reader.varint()?;
        let length = reader.length()?;
        sections.push(Section { kind, count, content: reader.take(length)? });
    }
    Ok(sections)
}
