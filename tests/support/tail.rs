//! Reads what is appended to a file, once, however large the file grows.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

/// How far a file of lines was read.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    /// From the file's beginning.
    #[must_use]
    pub fn new(path: PathBuf) -> Tail {
        Tail { path, offset: 0 }
    }

    /// Gives each line that was added; one that is still being written comes the next time.
    pub fn each(&mut self, mut take: impl FnMut(&str)) {
        let Ok(mut file) = File::open(&self.path) else { return };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|count| count > 0) && line.ends_with('\n') {
            self.offset += line.len() as u64;
            take(line.trim_end());
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tail;
    use std::io::Write as _;

    #[test]
    fn each_line_comes_once_and_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut tail = Tail::new(file.path().to_owned());
        let mut seen = Vec::new();
        for piece in ["one\ntw", "o\n", ""] {
            file.write_all(piece.as_bytes()).expect("written");
            tail.each(|line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["one", "two"]);
    }
}
