//! How a tokenizer's lists of numbers lie in a file.

use rkyv::rancor::Fallible;
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Serialize};

/// Numbers in 16 bits each if all of them fit, which those of a small vocabulary do, or else in 32.
#[derive(Archive, Serialize)]
pub enum Words {
    /// All below 65,536.
    Narrow(Vec<u16>),
    /// Any.
    Wide(Vec<u32>),
}

impl Words {
    fn new(words: &[u32]) -> Self {
        let narrow: Result<_, _> = words.iter().map(|&word| u16::try_from(word)).collect();
        narrow.map_or_else(|_| Words::Wide(words.to_vec()), Words::Narrow)
    }
}

impl ArchivedWords {
    pub(super) fn to_vec(&self) -> Vec<u32> {
        match self {
            ArchivedWords::Narrow(words) => words.iter().map(|word| u32::from(word.to_native())).collect(),
            ArchivedWords::Wide(words) => words.iter().map(|word| word.to_native()).collect(),
        }
    }
}

/// Archives a `Vec<u32>` as [`Words`].
pub(super) struct AsWords;

impl ArchiveWith<Vec<u32>> for AsWords {
    type Archived = ArchivedWords;
    type Resolver = WordsResolver;

    fn resolve_with(field: &Vec<u32>, resolver: WordsResolver, out: Place<ArchivedWords>) {
        Words::new(field).resolve(resolver, out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<Vec<u32>, S> for AsWords
where
    Words: Serialize<S>,
{
    fn serialize_with(field: &Vec<u32>, serializer: &mut S) -> Result<WordsResolver, S::Error> {
        Words::new(field).serialize(serializer)
    }
}
