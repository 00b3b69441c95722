//! A push scanner of JSON: takes bytes in any pieces, tells scalars with their path, keeps nothing else.
//! Memory is bounded by the depth, so that an answer or event of any length is read without being stored.
//! It reads answers, not requests: it skips what it does not need and stops at nonsense.

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 128;
/// Longest path that is told.
const MAX_PATH: usize = 8;
/// Longest key or text that is kept.
const MAX_TEXT: usize = 128;

/// A value without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    /// A text, with escapes as they stand; empty when it was too long to keep. And how long it is.
    Text(&'a str, Size),
    /// A whole number.
    Number(u64),
    /// Any other.
    Other,
}

/// How long a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Its ASCII letters and digits.
    pub(crate) letters: u64,
    /// Its bytes, with escapes as they stand: no fewer than it has.
    pub(crate) bytes: u64,
}

/// Who is told.
pub(crate) trait Sink {
    /// A scalar at this path; `*` stands for a place in an array.
    fn scalar(&mut self, path: &[&str], value: Scalar<'_>);
    /// An object or array at this path has ended.
    fn closed(&mut self, path: &[&str]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    KeyOrEnd,
    Colon,
    After,
    Text { key: bool, escaped: bool },
    Bare,
    Done,
    Dead,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    array: bool,
    /// Where its key begins among [`Scanner::keys`], which goes up to the next level's.
    key: usize,
}

/// The scanner of one document.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    levels: Vec<Level>,
    /// The keys of all levels, one after the other: a level costs no allocation of its own.
    keys: String,
    text: Vec<u8>,
    too_long: bool,
    /// Of the text so far.
    size: Size,
    /// Digits of a `\u` escape that still follow.
    digits: u8,
}

impl Scanner {
    pub(crate) fn new() -> Scanner {
        Scanner {
            state: State::Value,
            levels: Vec::with_capacity(MAX_PATH),
            keys: String::with_capacity(MAX_TEXT),
            text: Vec::with_capacity(MAX_TEXT),
            too_long: false,
            size: Size::default(),
            digits: 0,
        }
    }

    /// Ready for the next document.
    pub(crate) fn reset(&mut self) {
        self.state = State::Value;
        self.levels.clear();
        self.keys.clear();
        self.clear_text();
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            if let State::Text { key, escaped: false } = self.state {
                let plain = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                let (text, after) = rest.split_at_checked(plain).unwrap_or((rest, &[]));
                self.keep(text);
                if !key {
                    self.count(text);
                }
                rest = after;
                if let Some((end, after)) = rest.split_first() {
                    rest = after;
                    self.text_ends(*end, key, sink);
                }
                continue;
            }
            if matches!(self.state, State::Dead) {
                return;
            }
            // A bare value ends at a byte that is not its own and is looked at again.
            if self.step(*byte, sink) {
                rest = after;
            }
        }
    }

    /// Gives whether the byte was used up.
    fn step(&mut self, byte: u8, sink: &mut impl Sink) -> bool {
        match self.state {
            State::Text { key, .. } => {
                self.keep(&[byte]);
                self.digits = if byte == b'u' { 4 } else { 0 };
                self.size.bytes = self.size.bytes.saturating_add(2);
                self.state = State::Text { key, escaped: false };
            }
            State::Bare => return self.bare(byte, sink),
            _ if byte.is_ascii_whitespace() => {}
            State::Value => self.value(byte, sink),
            State::KeyOrEnd => match byte {
                b'"' => self.begin_text(true),
                b'}' => self.close(false, sink),
                b',' => {}
                _ => self.state = State::Dead,
            },
            State::Colon if byte == b':' => self.state = State::Value,
            State::After => match byte {
                b',' => self.state = if self.in_array() { State::Value } else { State::KeyOrEnd },
                b'}' => self.close(false, sink),
                b']' => self.close(true, sink),
                _ => self.state = State::Dead,
            },
            State::Colon | State::Done | State::Dead => self.state = State::Dead,
        }
        true
    }

    fn value(&mut self, byte: u8, sink: &mut impl Sink) {
        match byte {
            b'{' | b'[' if self.levels.len() >= MAX_DEPTH => self.state = State::Dead,
            b'{' => {
                self.open(false);
                self.state = State::KeyOrEnd;
            }
            b'[' => self.open(true),
            b']' => self.close(true, sink),
            b'"' => self.begin_text(false),
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                self.clear_text();
                self.keep(&[byte]);
                self.state = State::Bare;
            }
            _ => self.state = State::Dead,
        }
    }

    fn open(&mut self, array: bool) {
        self.levels.push(Level { array, key: self.keys.len() });
        if array {
            self.keys.push('*');
        }
    }

    fn bare(&mut self, byte: u8, sink: &mut impl Sink) -> bool {
        if matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'.' | b'+' | b'-') {
            self.keep(&[byte]);
            return true;
        }
        let number = std::str::from_utf8(&self.text).ok().and_then(|text| text.parse().ok()).filter(|_| !self.too_long);
        self.tell(number.map_or(Scalar::Other, Scalar::Number), sink);
        self.ended();
        false
    }

    fn begin_text(&mut self, key: bool) {
        self.clear_text();
        self.state = State::Text { key, escaped: false };
    }

    /// At a quote or a backslash.
    fn text_ends(&mut self, byte: u8, key: bool, sink: &mut impl Sink) {
        if byte == b'\\' {
            self.keep(&[byte]);
            self.state = State::Text { key, escaped: true };
            return;
        }
        let text = std::mem::take(&mut self.text);
        let read = if self.too_long { "" } else { std::str::from_utf8(&text).unwrap_or("") };
        if key {
            if let Some(level) = self.levels.last() {
                self.keys.truncate(level.key);
                self.keys.push_str(read);
            }
            self.state = State::Colon;
        } else {
            self.tell(Scalar::Text(read, self.size), sink);
            self.ended();
        }
        self.text = text;
    }

    fn close(&mut self, array: bool, sink: &mut impl Sink) {
        match self.levels.pop() {
            Some(level) if level.array == array => {
                self.keys.truncate(level.key);
                self.with_path(|path| sink.closed(path));
                self.ended();
            }
            _ => self.state = State::Dead,
        }
    }

    fn ended(&mut self) {
        self.state = if self.levels.is_empty() { State::Done } else { State::After };
    }

    fn tell(&self, value: Scalar<'_>, sink: &mut impl Sink) {
        self.with_path(|path| sink.scalar(path, value));
    }

    fn with_path(&self, tell: impl FnOnce(&[&str])) {
        let mut path = [""; MAX_PATH];
        if self.levels.len() > MAX_PATH {
            return;
        }
        let ends = self.levels.iter().skip(1).map(|next| next.key).chain([self.keys.len()]);
        for ((place, level), end) in path.iter_mut().zip(&self.levels).zip(ends) {
            *place = self.keys.get(level.key..end).unwrap_or_default();
        }
        tell(path.get(..self.levels.len()).unwrap_or_default());
    }

    fn in_array(&self) -> bool {
        self.levels.last().is_some_and(|level| level.array)
    }

    fn clear_text(&mut self) {
        self.text.clear();
        self.too_long = false;
        (self.size, self.digits) = (Size::default(), 0);
    }

    /// Counts the letters and digits of a piece of a text that has no escape in it, but for the rest of one before it.
    fn count(&mut self, piece: &[u8]) {
        let rest = usize::from(self.digits).min(piece.len());
        self.digits -= u8::try_from(rest).unwrap_or(self.digits);
        let letters = piece.iter().skip(rest).filter(|byte| byte.is_ascii_alphanumeric()).count();
        self.size.letters = self.size.letters.saturating_add(u64::try_from(letters).unwrap_or(0));
        self.size.bytes = self.size.bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.too_long || self.text.len() + bytes.len() > MAX_TEXT {
            self.too_long = true;
        } else {
            self.text.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default, PartialEq, Debug)]
    struct Told(Vec<String>);

    impl Sink for Told {
        fn scalar(&mut self, path: &[&str], value: Scalar<'_>) {
            self.0.push(format!("{}={value:?}", path.join(".")));
        }

        fn closed(&mut self, path: &[&str]) {
            self.0.push(format!("{}.", path.join(".")));
        }
    }

    fn told(pieces: &[&[u8]]) -> Told {
        let (mut scanner, mut told) = (Scanner::new(), Told::default());
        for piece in pieces {
            scanner.feed(piece, &mut told);
        }
        told
    }

    #[test]
    fn tells_scalars_with_their_paths() {
        let text = br#" {"a":{"b":[1,"x\"y",{"c":null}]},"d":-2,"e":[],"f":{} } "#;
        let want = [
            "a.b.*=Number(1)",
            r#"a.b.*=Text("x\\\"y", Size { letters: 2, bytes: 4 })"#,
            "a.b.*.c=Other",
            "a.b.*.",
            "a.b.",
            "a.",
            "d=Other",
            "e.",
            "f.",
            ".",
        ];
        assert_eq!(told(&[text]).0, want);
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(told(&[one, two]).0, want, "split at {at}");
        }
    }

    #[test]
    fn letters_are_counted_and_escapes_are_not() {
        let text = br#"{"key":"a\n\u00e9\\b \"9\ud83d\ude00c"}"#;
        let want = [r#"key=Text("a\\n\\u00e9\\\\b \\\"9\\ud83d\\ude00c", Size { letters: 4, bytes: 29 })"#, "."];
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(told(&[one, two]).0, want, "split at {at}");
        }
    }

    #[test]
    fn a_number_that_is_cut_is_not_told() {
        assert!(told(&[b"{\"a\":12"]).0.is_empty());
    }

    #[test]
    fn long_texts_and_deep_nests_cost_no_memory() {
        let mut scanner = Scanner::new();
        let mut sink = Told::default();
        scanner.feed(b"{\"a\":\"", &mut sink);
        for _ in 0..1_000 {
            scanner.feed(&[b'x'; 1_000], &mut sink);
        }
        scanner.feed(b"\",\"b\":7}", &mut sink);
        assert!(scanner.text.capacity() <= 2 * MAX_TEXT);
        assert_eq!(sink.0, ["a=Text(\"\", Size { letters: 1000000, bytes: 1000000 })", "b=Number(7)", "."]);
        scanner.reset();
        scanner.feed(&[b'['; 100_000], &mut sink);
        assert_eq!(scanner.levels.len(), MAX_DEPTH);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_told_alike(bytes in proptest::collection::vec(prop_oneof![Just(b'{'), Just(b'"'), Just(b'}'), Just(b':'), Just(b','), Just(b'['), Just(b']'), Just(b'1'), Just(b'\\'), any::<u8>()], 0..200), at in 0usize..200) {
            let (one, two) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(told(&[&bytes]), told(&[one, two]));
        }
    }
}
