//! How a tokenizer's lists of numbers lie in a file.

use rkyv::rancor::Fallible;
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Serialize};

/// Numbers in 16 bits each if all of them fit, which those of a small vocabulary do, or else in 32.
#[derive(Archive, Serialize)]
pub enum Packed {
    /// All below 65,536.
    Narrow(Vec<u16>),
    /// Any.
    Wide(Vec<u32>),
}

impl Packed {
    fn new(words: &[u32]) -> Self {
        let narrow: Result<_, _> = words.iter().map(|&word| u16::try_from(word)).collect();
        narrow.map_or_else(|_| Packed::Wide(words.to_vec()), Packed::Narrow)
    }
}

impl ArchivedPacked {
    pub(super) fn to_vec(&self) -> Vec<u32> {
        match self {
            ArchivedPacked::Narrow(words) => words.iter().map(|word| u32::from(word.to_native())).collect(),
            ArchivedPacked::Wide(words) => words.iter().map(|word| word.to_native()).collect(),
        }
    }
}

/// Archives a `Vec<u32>` as [`Packed`].
pub(super) struct AsPacked;

impl ArchiveWith<Vec<u32>> for AsPacked {
    type Archived = ArchivedPacked;
    type Resolver = PackedResolver;

    fn resolve_with(field: &Vec<u32>, resolver: PackedResolver, out: Place<ArchivedPacked>) {
        Packed::new(field).resolve(resolver, out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<Vec<u32>, S> for AsPacked
where
    Packed: Serialize<S>,
{
    fn serialize_with(field: &Vec<u32>, serializer: &mut S) -> Result<PackedResolver, S::Error> {
        Packed::new(field).serialize(serializer)
    }
}
