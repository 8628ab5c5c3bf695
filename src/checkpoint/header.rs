//! The 64 bytes before the archive.

use super::CheckpointError;
use crate::model::Kind;
use std::io::{self, Write};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Length of the header, and alignment of the archive after it.
pub const HEADER_LENGTH: usize = 64;
/// First bytes of every checkpoint.
const MAGIC: [u8; 8] = *b"SHOESTRG";
/// The format this version reads and writes.
const FORMAT_VERSION: u32 = 2;

/// A parsed header: magic, format version, kind, archive length, checksum; zeros up to 64 bytes.
pub struct Header {
    pub kind: Kind,
    pub archive_length: usize,
    pub checksum: u64,
}

impl Header {
    /// Reads the header of `file`, the whole file's bytes, and compares its length with the file's.
    pub fn parse(file: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        let path = || path.to_owned();
        let common = file.len().min(MAGIC.len());
        if file[..common] != MAGIC[..common] {
            return Err(CheckpointError::Foreign { path: path() });
        }
        let Some(header) = file.first_chunk::<HEADER_LENGTH>() else {
            return Err(CheckpointError::Truncated { path: path(), length: file.len(), expected: None });
        };
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let damaged = |what: &str| CheckpointError::Damaged { path: path(), what: what.to_owned() };
        let version = u32_at(8);
        if version > FORMAT_VERSION {
            return Err(CheckpointError::Newer { path: path(), version, known: FORMAT_VERSION });
        }
        if version == 0 {
            return Err(damaged("its format version is not a version"));
        }
        if version < FORMAT_VERSION {
            return Err(CheckpointError::Older { path: path(), version, known: FORMAT_VERSION });
        }
        let code = u32_at(12);
        let kind = Kind::ALL.into_iter().find(|&kind| kind as u32 == code);
        let kind = kind.ok_or_else(|| damaged("its kind of weights is unknown"))?;
        let archive_length = u64_at(16);
        let present = (file.len() - HEADER_LENGTH) as u64;
        if present < archive_length {
            let expected = Some(archive_length.saturating_add(HEADER_LENGTH as u64));
            return Err(CheckpointError::Truncated { path: path(), length: file.len(), expected });
        }
        if present > archive_length {
            return Err(damaged("there are bytes after its end"));
        }
        Ok(Header { kind, archive_length: archive_length as usize, checksum: u64_at(24) })
    }

    /// Whether `file`, of which this is the header, is what was written.
    pub fn checksum_matches(&self, file: &[u8]) -> bool {
        let mut header = [0; HEADER_LENGTH];
        header.copy_from_slice(&file[..HEADER_LENGTH]);
        header[24..32].fill(0);
        checksum(&header, &file[HEADER_LENGTH..]) == self.checksum
    }
}

/// Makes the length and the checksum in the header of `file` those of what follows it; a shorter file stays
/// as it is. For tests that damage what a checksum protects.
#[doc(hidden)]
pub fn reseal(file: &mut [u8]) {
    let Some((header, archive)) = file.split_first_chunk_mut::<HEADER_LENGTH>() else { return };
    header[16..24].copy_from_slice(&(archive.len() as u64).to_le_bytes());
    header[24..32].fill(0);
    let checksum = checksum(header, archive);
    header[24..32].copy_from_slice(&checksum.to_le_bytes());
}

/// The checksum of a file whose archive is written here piece by piece.
pub struct Checksum {
    header: [u8; HEADER_LENGTH],
    hasher: Xxh3,
}

impl Checksum {
    /// Of a file of weights of kind `kind`, with an archive of `length` bytes.
    pub fn new(kind: Kind, length: u64) -> Self {
        let mut header = [0; HEADER_LENGTH];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(kind as u32).to_le_bytes());
        header[16..24].copy_from_slice(&length.to_le_bytes());
        let mut hasher = Xxh3::new();
        hasher.update(&header);
        Checksum { header, hasher }
    }

    /// The header, once the archive has been written here.
    pub fn header(mut self) -> [u8; HEADER_LENGTH] {
        self.header[24..32].copy_from_slice(&self.hasher.digest().to_le_bytes());
        self.header
    }
}

impl Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// XXH3 over the header, its checksum field zero, and the archive.
fn checksum(header: &[u8; HEADER_LENGTH], archive: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(archive);
    hasher.digest()
}
