//! The bytes of states: a seal around each, and small numbers within.

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of the seal: kind, parameter, checksum.
const SEAL: usize = 6;

/// A stored state that cannot be read. The text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored state is damaged ({0}): rebuild the partition")]
pub(super) struct Corrupt(pub(super) String);

/// The content with what it is and a checksum in front: a state is never read as another, and no decoder sees bytes
/// that were not written.
pub(super) fn seal(kind: u8, parameter: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEAL + content.len());
    out.push(kind);
    out.push(parameter);
    out.extend_from_slice(&checksum(content));
    out.extend_from_slice(content);
    out
}

/// The content of a sealed state.
pub(super) fn open(kind: u8, parameter: u8, sealed: &[u8]) -> Result<&[u8], Corrupt> {
    let Some((seal, content)) = sealed.split_at_checked(SEAL) else {
        return Err(Corrupt("it is cut short".to_owned()));
    };
    if seal[..2] != [kind, parameter] {
        return Err(Corrupt(format!("it is of kind {}.{}, not {kind}.{parameter}", seal[0], seal[1])));
    }
    if seal[2..] != checksum(content) {
        return Err(Corrupt("its content is not what was written".to_owned()));
    }
    Ok(content)
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh3_64(content).to_le_bytes();
    [a, b, c, d]
}

/// Appends a number, seven bits a byte, least first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits are meant")]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
    out.push(number as u8);
}

/// Reads a content from its start.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(content: &'a [u8]) -> Self {
        Self(content)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn byte(&mut self) -> Result<u8, Corrupt> {
        let (first, rest) = self.0.split_first().ok_or_else(|| Corrupt("it is cut short".to_owned()))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| Corrupt("it is cut short".to_owned()))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64, Corrupt> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Corrupt("a number in it has more than 64 bits".to_owned()))
    }

    /// Eight bytes.
    pub(super) fn word(&mut self) -> Result<u64, Corrupt> {
        let bytes = self.take(8)?.try_into().map_err(|_other_length| Corrupt("it is cut short".to_owned()))?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn length(&mut self) -> Result<usize, Corrupt> {
        usize::try_from(self.varint()?).map_err(|_too_long| Corrupt("it is cut short".to_owned()))
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Corrupt> {
        if self.0.is_empty() { Ok(()) } else { Err(Corrupt("something follows its end".to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(number));
            assert_eq!(reader.end(), Ok(()));
        }
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
    }

    #[test]
    fn a_broken_seal_is_an_error() {
        let sealed = seal(1, 14, b"content");
        assert_eq!(open(1, 14, &sealed), Ok(b"content".as_slice()));
        assert!(open(2, 14, &sealed).is_err() && open(1, 13, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(open(1, 14, &broken).is_err(), "byte {at}");
            assert!(open(1, 14, &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
