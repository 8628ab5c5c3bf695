//! Turning the text of a run into tokens, a window at a time.

use super::cache;
use super::corpus::Corpus;
use super::tokens::{Place, Tokens, Width};
use super::{TokensError, TrainError};
use crate::evaluate::{TextSize, TokenStream, characters};
use crate::text::TextError;
use crate::tokenizer::{BOT, ParallelEncoder, Pieces, Special, TokenizerView, USER};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// Tokens of a text up to this many bytes are kept in memory: made anew in no time, they need no file.
const LARGEST_IN_MEMORY: u64 = 4 << 20;
/// Tokens of the held-out text read at once.
const WINDOW: usize = 1 << 12;

/// The text of a run as tokens.
pub struct TokenizedCorpus {
    /// What is trained on.
    pub training: Tokens,
    /// What is validated on.
    pub validation: HeldOut,
    /// Characters of what is trained on.
    pub training_chars: u64,
    /// Whether what is trained on has turns of both speakers.
    pub dialogue: bool,
}

impl TokenizedCorpus {
    /// Encodes `corpus` on `threads` threads. The tokens of a large one are kept in the file `cache`, and taken from
    /// there if it holds them already. `progress` is called with the bytes encoded and their total, and may break off.
    ///
    /// # Errors
    /// If the text can't be read any more or has changed, or `cache` can't be written;
    /// [`TrainError::Interrupted`] if `progress` broke off.
    pub fn new(
        corpus: &Corpus,
        tokenizer: TokenizerView<'_>,
        cache: &Path,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self, TrainError> {
        let vocabulary = tokenizer.vocabulary_size();
        let (place, counts) = if total(corpus) <= LARGEST_IN_MEMORY {
            let mut bytes = Vec::new();
            let counts = tokenize(corpus, tokenizer, threads, &mut bytes, progress)
                .map_err(|error| error.of(cache))?;
            (Place::Memory(bytes), counts)
        } else {
            cache::open_or_make(cache, corpus, tokenizer, |out| {
                tokenize(corpus, tokenizer, threads, out, progress)
            })?
        };
        let Counts { training, validation, training_chars, validation_chars, dialogue } = counts;
        let [training, validation] = Tokens::parts(place, vocabulary, training as usize, validation as usize);
        let size = TextSize { bytes: corpus.validation_length(), chars: validation_chars };
        Ok(TokenizedCorpus {
            training,
            validation: HeldOut { tokens: validation, size },
            training_chars,
            dialogue,
        })
    }
}

/// The held-out text as tokens.
#[derive(Clone, Debug)]
pub struct HeldOut {
    tokens: Tokens,
    size: TextSize,
}

impl HeldOut {
    /// How many tokens there are.
    pub fn count(&self) -> usize {
        self.tokens.count()
    }

    /// Reads them from the first to the last.
    pub fn stream(&self) -> impl TokenStream<Error = TokensError> {
        HeldOutStream { text: self.clone(), at: 0 }
    }
}

struct HeldOutStream {
    text: HeldOut,
    at: usize,
}

impl TokenStream for HeldOutStream {
    type Error = TokensError;

    fn read(&mut self, out: &mut Vec<u32>) -> Result<(), TokensError> {
        let end = self.text.count().min(self.at + WINDOW);
        self.text.tokens.read(self.at..end, out)?;
        self.at = end;
        Ok(())
    }

    fn size(&self) -> TextSize {
        self.text.size
    }
}

/// What came of encoding a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Tokens to train on, which come first.
    pub training: u64,
    /// Tokens to validate on.
    pub validation: u64,
    /// Characters of the text to train on.
    pub training_chars: u64,
    /// Characters of the text to validate on.
    pub validation_chars: u64,
    /// Whether what is trained on has turns of both speakers.
    pub dialogue: bool,
}

pub(super) enum TokenizeError {
    Text(TextError),
    Write(io::Error),
    Interrupted,
}

impl TokenizeError {
    /// The error if the tokens were written to `path`.
    pub fn of(self, path: &Path) -> TrainError {
        match self {
            TokenizeError::Text(error) => error.into(),
            TokenizeError::Interrupted => TrainError::Interrupted,
            TokenizeError::Write(source) => TokensError::Write { path: path.to_owned(), source }.into(),
        }
    }
}

fn total(corpus: &Corpus) -> u64 {
    corpus.training_length() + corpus.validation_length()
}

/// Writes the tokens of `corpus` to `out`, those to train on first.
fn tokenize(
    corpus: &Corpus,
    tokenizer: TokenizerView<'_>,
    threads: usize,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Counts, TokenizeError> {
    let mut pass = Pass {
        encoder: ParallelEncoder::new(tokenizer, threads),
        width: Width::of(tokenizer.vocabulary_size()),
        bytes: Vec::new(),
        out,
        progress,
        done: 0,
        total: total(corpus),
    };
    let mut reader = corpus.training();
    let training = pass.part(&mut reader)?;
    let validation = pass.part(&mut corpus.validation(reader))?;
    Ok(Counts {
        training: training.tokens,
        validation: validation.tokens,
        training_chars: training.chars,
        validation_chars: validation.chars,
        dialogue: training.user && training.bot,
    })
}

/// One way through a corpus.
struct Pass<'a> {
    encoder: ParallelEncoder<'a>,
    width: Width,
    /// Tokens about to be written.
    bytes: Vec<u8>,
    out: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    /// Bytes of text encoded, and of all the text.
    done: u64,
    total: u64,
}

#[derive(Default)]
struct PartCounts {
    tokens: u64,
    chars: u64,
    user: bool,
    bot: bool,
}

impl Pass<'_> {
    /// Encodes what `reader` yields: a text of its own.
    fn part(&mut self, reader: &mut dyn Read) -> Result<PartCounts, TokenizeError> {
        let read_error = |error| TokenizeError::Text(TextError::from_read(error));
        let mut pieces = Pieces::new(reader);
        let mut counts = PartCounts::default();
        while let Some(piece) = pieces.next_piece().map_err(read_error)? {
            for ids in self.encoder.encode(piece, Special::Match) {
                self.bytes.clear();
                self.width.encode(ids, &mut self.bytes);
                self.out.write_all(&self.bytes).map_err(TokenizeError::Write)?;
                counts.tokens += ids.len() as u64;
                counts.user |= ids.contains(&USER);
                counts.bot |= ids.contains(&BOT);
            }
            counts.chars += characters(piece);
            self.done += piece.len() as u64;
            if (self.progress)(self.done, self.total).is_break() {
                return Err(TokenizeError::Interrupted);
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;
    use crate::tokenizer::Tokenizer;
    use proptest::prelude::*;
    use std::fs;
    use std::sync::LazyLock;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let text = "[USER] how are you? [EOS]\n[BOT] fine, und dir? 今日は、元気です。 ".repeat(20);
        Tokenizer::train(&[text.as_bytes()], 330, 1).unwrap()
    });

    fn corpus(text: &[u8]) -> Corpus {
        Corpus::new(Text::from_bytes(text.to_vec()), None).unwrap()
    }

    /// All tokens of `corpus` by way of the file `path`, and whether they had to be made.
    fn by_file(path: &Path, corpus: &Corpus, tokenizer: &Tokenizer, threads: usize) -> ([Tokens; 2], bool) {
        let view = tokenizer.view();
        let mut made = false;
        let (place, counts) = cache::open_or_make(path, corpus, view, |out| {
            made = true;
            tokenize(corpus, view, threads, out, &mut |_, _| ControlFlow::Continue(()))
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let (first, second) = (counts.training as usize, counts.validation as usize);
        (Tokens::parts(place, view.vocabulary_size(), first, second), made)
    }

    fn all(tokens: &mut Tokens) -> Vec<u32> {
        let mut ids = Vec::new();
        tokens.read(0..tokens.count(), &mut ids).unwrap();
        ids
    }

    fn encoded(text: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        TOKENIZER.view().encode(text, Special::Match, &mut ids);
        ids
    }

    /// Bytes that are often nearly text.
    fn any_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[a-z' ]{0,9}|\\[USER\\] |[\\s]{0,5}|\\PC{0,5}|今日は、".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        // Repeated, some are long enough for several threads.
        (prop::collection::vec(piece, 1..40), prop_oneof![Just(1usize), 1..2000usize])
            .prop_map(|(pieces, times)| pieces.concat().repeat(times))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_text_by_way_of_a_file_is_the_text_in_memory(
            text in any_text(), threads in 1usize..5, cut in any::<prop::sample::Index>(),
        ) {
            let (folder, corpus) = (tempfile::tempdir()?, corpus(&text));
            let path = folder.path().join("tokens");
            let (first, rest) = text.split_at(corpus.training_length() as usize);
            for made in [true, false] {
                let ([mut training, mut validation], was_made) = by_file(&path, &corpus, &TOKENIZER, threads);
                prop_assert_eq!(was_made, made);
                let expected = encoded(first);
                prop_assert_eq!(&all(&mut training), &expected);
                prop_assert_eq!(all(&mut validation), encoded(rest));
                let at = cut.index(expected.len() + 1);
                let mut window = Vec::new();
                training.read(at..expected.len().min(at + 100), &mut window)?;
                prop_assert_eq!(&window[..], &expected[at..expected.len().min(at + 100)]);
            }
        }
    }

    #[test]
    fn broken_off_it_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (corpus, path) = (corpus(&vec![b'a'; 5 << 20]), folder.path().join("tokens"));
        let mut calls = 0;
        let mut progress = |_, _| {
            calls += 1;
            ControlFlow::Break(())
        };
        let outcome = TokenizedCorpus::new(&corpus, TOKENIZER.view(), &path, 2, &mut progress);
        assert!(matches!(outcome, Err(TrainError::Interrupted)));
        assert_eq!((calls, fs::read_dir(folder.path()).unwrap().count()), (1, 0));
    }

    #[test]
    fn a_file_that_is_wrong_in_anything_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let text = b"how are you? fine, thank you, and how are they? ".repeat(6);
        let corpus = corpus(&text);
        assert!(by_file(&path, &corpus, &TOKENIZER, 1).1);
        let sound = fs::read(&path).unwrap();
        let flipped = (0..sound.len()).map(|at| {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        });
        let cut = (0..sound.len()).map(|length| sound[..length].to_vec());
        let longer = [[&sound[..], b"\0\0"].concat(), b"something else\n".repeat(30)];
        for damaged in flipped.chain(cut).chain(longer) {
            fs::write(&path, damaged).unwrap();
            assert!(by_file(&path, &corpus, &TOKENIZER, 1).1);
            assert!(fs::read(&path).unwrap() == sound);
        }
        // Of another text, of another tokenizer.
        let other = text.to_ascii_uppercase();
        assert!(by_file(&path, &super::tests::corpus(&other), &TOKENIZER, 1).1);
        assert!(by_file(&path, &corpus, &TOKENIZER, 1).1);
        let other = Tokenizer::train(&[b"how are they"], 330, 1).unwrap();
        assert!(by_file(&path, &corpus, &other, 1).1);
        assert!(!by_file(&path, &corpus, &other, 1).1);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let corpus = corpus(&b"how are you? ".repeat(50));
        let ([mut tokens, _], _) = by_file(&path, &corpus, &TOKENIZER, 1);
        let length = fs::metadata(&path).unwrap().len();
        fs::write(&path, vec![0xff; length as usize]).unwrap();
        let read = |tokens: &mut Tokens| tokens.read(0..tokens.count(), &mut Vec::new()).unwrap_err();
        assert!(matches!(read(&mut tokens), TokensError::Changed { .. }));
        fs::write(&path, "").unwrap();
        assert!(matches!(read(&mut tokens), TokensError::Read { .. }));
    }
}
