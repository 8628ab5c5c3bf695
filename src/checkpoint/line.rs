//! Weight lines inside an archive: their archived form is their own memory, so a mapped file is the kernels'
//! operand as it stands.

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::{Allocator, Positional, Writer};
use rkyv::traits::{CopyOptimization, NoUndef};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Portable, Serialize};
use shoestring_kernels::Line;

#[cfg(target_endian = "big")]
compile_error!("checkpoints are mapped as little-endian numbers; this target is big-endian");

/// A [`Line`] as it lies in an archive: sixteen little-endian f32, 64-byte aligned.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct StoredLine(Line);

const _: () = assert!(size_of::<StoredLine>() == 64 && align_of::<StoredLine>() == 64);

// SAFETY: a `repr(transparent)` wrapper of a `repr(C)` array of f32, which is the same bytes on every
// little-endian target (others do not compile); it has no padding and no interior mutability.
unsafe impl Portable for StoredLine {}

// SAFETY: sixteen f32 fill it: no padding, so no byte of it is ever undefined.
unsafe impl NoUndef for StoredLine {}

// SAFETY: every bit pattern is sixteen valid f32, so there is nothing to check.
unsafe impl<C: Fallible + ?Sized> CheckBytes<C> for StoredLine {
    unsafe fn check_bytes(_: *const Self, _: &mut C) -> Result<(), C::Error> {
        Ok(())
    }
}

impl Archive for StoredLine {
    type Archived = Self;
    type Resolver = ();
    // SAFETY: the archived form is the type itself, without padding.
    const COPY_OPTIMIZATION: CopyOptimization<Self> = unsafe { CopyOptimization::enable() };

    fn resolve(&self, (): (), out: Place<Self>) {
        out.write(*self);
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for StoredLine {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

/// Archives a borrowed `&[Line]` as an `ArchivedVec<StoredLine>`.
pub struct AsLines;

impl ArchiveWith<&[Line]> for AsLines {
    type Archived = ArchivedVec<StoredLine>;
    type Resolver = VecResolver;

    fn resolve_with(field: &&[Line], resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(field.len(), resolver, out);
    }
}

impl<S> SerializeWith<&[Line], S> for AsLines
where
    S: Fallible + Allocator + Writer + ?Sized,
    S::Error: Source,
{
    fn serialize_with(field: &&[Line], serializer: &mut S) -> Result<VecResolver, S::Error> {
        align_for_lines(serializer)?;
        // SAFETY: `StoredLine` is a `repr(transparent)` wrapper of `Line`.
        let stored = unsafe { std::slice::from_raw_parts(field.as_ptr().cast::<StoredLine>(), field.len()) };
        ArchivedVec::serialize_from_slice(stored, serializer)
    }
}

/// Writes zeros up to where a line may lie. rkyv would too, but panics where it takes more than 31 of them.
fn align_for_lines<S: Fallible + Writer + ?Sized>(serializer: &mut S) -> Result<(), S::Error> {
    const ZEROS: [u8; align_of::<StoredLine>()] = [0; align_of::<StoredLine>()];
    let position = serializer.pos();
    serializer.write(&ZEROS[..position.next_multiple_of(ZEROS.len()) - position])
}

/// The lines of an archived buffer.
pub fn lines(stored: &ArchivedVec<StoredLine>) -> &[Line] {
    let stored = stored.as_slice();
    // SAFETY: `StoredLine` is a `repr(transparent)` wrapper of `Line`.
    unsafe { std::slice::from_raw_parts(stored.as_ptr().cast(), stored.len()) }
}
