//! Groups: the distinct combinations of the keys' codes.

use std::mem::size_of;

use hashbrown::HashTable;

use super::columns::NONE;

/// Combinations that are looked up by their place: a table of 8 MiB at most.
const DENSE_BITS: u32 = 21;

/// The codes of a key in some rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowCodes<'a> {
    /// By row.
    pub(super) codes: &'a [u32],
    /// If these are codes of a column: the key's code, by that of the column.
    pub(super) of_column: Option<&'a [u32]>,
}

impl RowCodes<'_> {
    fn at(&self, row: usize) -> u32 {
        let code = self.codes[row];
        self.of_column.map_or(code, |codes| codes[code as usize])
    }

    /// Calls `each` with one of `items` and the code of its row, for all rows.
    #[inline]
    fn with<T>(&self, items: &mut [T], each: impl Fn(&mut T, u32)) {
        let rows = items.iter_mut().zip(self.codes);
        match self.of_column {
            None => rows.for_each(|(item, code)| each(item, *code)),
            Some(of_column) => rows.for_each(|(item, code)| each(item, of_column[*code as usize])),
        }
    }
}

/// The groups so far, numbered in the order in which they were met.
pub(super) struct Groups {
    /// By key: its code in each group.
    members: Vec<Vec<u32>>,
    slots: Slots,
}

enum Slots {
    /// By the keys' codes side by side, each in so many bits.
    Dense { bits: Vec<u32>, groups: Vec<u32> },
    /// By the hash of the keys' codes.
    Hashed(HashTable<u32>),
}

impl Groups {
    /// No groups of so many keys.
    pub(super) fn new(keys: usize) -> Self {
        let slots = Slots::Dense { bits: vec![0; keys], groups: vec![NONE] };
        Self { members: vec![Vec::new(); keys], slots }
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.members.first().map_or(0, Vec::len)
    }

    /// Each key's code in each group, by key.
    pub(super) fn members(&self) -> &[Vec<u32>] {
        &self.members
    }

    /// Bytes in memory, about.
    pub(super) fn size(&self) -> usize {
        let slots = match &self.slots {
            Slots::Dense { groups, .. } => groups.capacity() * size_of::<u32>(),
            Slots::Hashed(groups) => groups.allocation_size(),
        };
        slots + self.members.iter().map(|codes| codes.capacity() * size_of::<u32>()).sum::<usize>()
    }

    /// The group of each row. `codes` are those of the keys, each below its key's number in `counts`.
    pub(super) fn assign(&mut self, codes: &[RowCodes<'_>], counts: &[usize]) -> Vec<u32> {
        self.make_room(counts);
        let rows = codes.first().map_or(0, |key| key.codes.len());
        let members = &mut self.members;
        match &mut self.slots {
            Slots::Dense { bits, groups } => {
                let group = |(row, place): (usize, u32)| {
                    let slot = &mut groups[place as usize];
                    if *slot == NONE {
                        *slot = add(members, codes, row);
                    }
                    *slot
                };
                places(codes, bits, rows).into_iter().enumerate().map(group).collect()
            }
            Slots::Hashed(table) => {
                let group = |(row, hash): (usize, u64)| {
                    let is_same = |group: &u32| {
                        members.iter().zip(codes).all(|(members, codes)| members[*group as usize] == codes.at(row))
                    };
                    if let Some(group) = table.find(hash, is_same) {
                        return *group;
                    }
                    let group = add(members, codes, row);
                    table.insert_unique(hash, group, |group| hash_of(members, *group as usize));
                    group
                };
                hashes(codes, rows).into_iter().enumerate().map(group).collect()
            }
        }
    }

    /// Widens what is too narrow for so many codes.
    fn make_room(&mut self, counts: &[usize]) {
        let Slots::Dense { bits, .. } = &self.slots else { return };
        if counts.iter().zip(bits).all(|(count, bits)| *count <= 1 << bits) {
            return;
        }
        let bits: Vec<u32> = counts.iter().zip(bits).map(|(count, bits)| width(*count).max(*bits)).collect();
        let rows = self.len();
        let numbers = 0..u32::try_from(rows).unwrap_or(NONE);
        if bits.iter().sum::<u32>() <= DENSE_BITS {
            let mut groups = vec![NONE; 1 << bits.iter().sum::<u32>()];
            for (place, group) in places(&by_group(&self.members), &bits, rows).into_iter().zip(numbers) {
                groups[place as usize] = group;
            }
            self.slots = Slots::Dense { bits, groups };
            return;
        }
        let members = &self.members;
        let mut table = HashTable::with_capacity(rows * 2);
        for (hash, group) in hashes(&by_group(members), rows).into_iter().zip(numbers) {
            table.insert_unique(hash, group, |group| hash_of(members, *group as usize));
        }
        self.slots = Slots::Hashed(table);
    }
}

/// Makes a group of a row's codes.
fn add(members: &mut [Vec<u32>], codes: &[RowCodes<'_>], row: usize) -> u32 {
    let group = members.first().map_or(0, Vec::len);
    members.iter_mut().zip(codes).for_each(|(members, codes)| members.push(codes.at(row)));
    u32::try_from(group).unwrap_or(NONE)
}

fn by_group(members: &[Vec<u32>]) -> Vec<RowCodes<'_>> {
    members.iter().map(|codes| RowCodes { codes, of_column: None }).collect()
}

/// Bits for so many codes.
fn width(count: usize) -> u32 {
    usize::BITS - count.saturating_sub(1).leading_zeros()
}

/// The codes of each row side by side.
fn places(codes: &[RowCodes<'_>], bits: &[u32], rows: usize) -> Vec<u32> {
    let mut places = vec![0; rows];
    for (codes, bits) in codes.iter().zip(bits) {
        codes.with(&mut places, |place, code| *place = (*place << bits) | code);
    }
    places
}

fn hashes(codes: &[RowCodes<'_>], rows: usize) -> Vec<u64> {
    let mut hashes = vec![0; rows];
    for codes in codes {
        codes.with(&mut hashes, |hash, code| *hash = mix(*hash, code));
    }
    hashes
}

fn hash_of(members: &[Vec<u32>], group: usize) -> u64 {
    members.iter().fold(0, |hash, codes| mix(hash, codes[group]))
}

/// Both halves of a wide product: the table takes its places from low bits and its tags from high ones.
fn mix(hash: u64, code: u32) -> u64 {
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let product = u128::from((hash ^ u64::from(code)).wrapping_add(SPREAD)) * u128::from(SPREAD);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Assigns rows in portions and compares with a plain map.
    fn check(rows: &[[u32; 3]], portion: usize) -> Groups {
        let mut groups = Groups::new(3);
        let mut expected: HashMap<[u32; 3], u32> = HashMap::new();
        let mut counts = [0; 3];
        for rows in rows.chunks(portion) {
            let codes: Vec<Vec<u32>> = (0..3).map(|key| rows.iter().map(|row| row[key]).collect()).collect();
            for (count, codes) in counts.iter_mut().zip(&codes) {
                *count = codes.iter().map(|code| *code as usize + 1).fold(*count, usize::max);
            }
            // Some keys by way of a column whose codes are the other way round.
            let turned: Vec<Vec<u32>> = codes
                .iter()
                .zip(counts)
                .map(|(codes, count)| codes.iter().map(|code| u32::try_from(count).expect("few") - 1 - code).collect())
                .collect();
            let of_column: Vec<Vec<u32>> =
                counts.iter().map(|count| (0..u32::try_from(*count).expect("few")).rev().collect()).collect();
            let row_codes: Vec<RowCodes<'_>> = (0..3)
                .map(|key| match key {
                    1 => RowCodes { codes: &turned[key], of_column: Some(&of_column[key]) },
                    _ => RowCodes { codes: &codes[key], of_column: None },
                })
                .collect();
            let found = groups.assign(&row_codes, &counts);
            for (row, group) in rows.iter().zip(found) {
                let next = u32::try_from(expected.len()).expect("few");
                assert_eq!(group, *expected.entry(*row).or_insert(next), "{row:?}");
            }
        }
        assert_eq!(groups.len(), expected.len());
        for (row, group) in expected {
            assert_eq!([0, 1, 2].map(|key| groups.members()[key][group as usize]), row);
        }
        groups
    }

    fn rows(count: u32, widths: [u32; 3]) -> Vec<[u32; 3]> {
        let row = |n: u32| widths.map(|width| n.wrapping_mul(2_654_435_761).rotate_left(width % 13) % width);
        (0..count).map(row).collect()
    }

    #[test]
    fn few_codes_are_looked_up_by_place() {
        let groups = check(&rows(50_000, [7, 1, 300]), 1_000);
        assert!(matches!(groups.slots, Slots::Dense { .. }));
        check(&[], 10);
        check(&[[0, 0, 0], [0, 0, 0]], 1);
    }

    #[test]
    fn many_codes_are_hashed_and_keep_their_groups() {
        let mut growing = rows(3_000, [3, 5, 9]);
        growing.extend(rows(60_000, [40, 5_000, 3_000]));
        growing.extend(rows(3_000, [3, 5, 9]));
        let groups = check(&growing, 777);
        assert!(matches!(groups.slots, Slots::Hashed(_)));
    }

    #[test]
    fn neighbours_do_not_share_hashes() {
        let codes: Vec<Vec<u32>> =
            vec![(0..1_000_000).map(|n| n / 1000).collect(), (0..1_000_000).map(|n| n % 1000).collect()];
        let mut hashes = hashes(&by_group(&codes), 1_000_000);
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 1_000_000);
    }
}
