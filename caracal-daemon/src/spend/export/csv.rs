//! Comma-separated values as RFC 4180 has them, with a header line. Bounded.

use super::{ExportError, MAX_ROWS};

/// The longest field, bytes.
const MAX_FIELD: usize = 4_096;
/// The most fields of a row.
const MAX_FIELDS: usize = 256;

/// The rows of a text, the header first, each with the number of the line that it begins at. Empty lines are left out.
pub(super) fn rows(text: &str) -> Result<Vec<(usize, Vec<String>)>, ExportError> {
    let mut rows = Vec::new();
    let mut row = Row { line: 1, fields: Vec::new(), field: String::new(), closed: false };
    let (mut line, mut quoted) = (1, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        line += usize::from(character == '\n');
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                row.push('"')?;
            }
            '"' if quoted => {
                quoted = false;
                row.closed = true;
            }
            '"' if row.field.is_empty() && !row.closed => quoted = true,
            other if quoted => row.push(other)?,
            ',' => row.next()?,
            '\r' if characters.peek() == Some(&'\n') => {}
            '\n' => row.end(&mut rows, line)?,
            other => row.push(other)?,
        }
    }
    if quoted {
        return Err(row.fault("a quote is not closed"));
    }
    row.end(&mut rows, line)?;
    Ok(rows)
}

struct Row {
    line: usize,
    fields: Vec<String>,
    field: String,
    /// The field was quoted, and its quote is closed.
    closed: bool,
}

impl Row {
    fn push(&mut self, character: char) -> Result<(), ExportError> {
        if self.field.len() >= MAX_FIELD {
            return Err(self.fault("a field is too long"));
        }
        self.field.push(character);
        Ok(())
    }

    fn next(&mut self) -> Result<(), ExportError> {
        if self.fields.len() >= MAX_FIELDS {
            return Err(self.fault("it has too many fields"));
        }
        self.fields.push(std::mem::take(&mut self.field));
        self.closed = false;
        Ok(())
    }

    fn end(&mut self, rows: &mut Vec<(usize, Vec<String>)>, line: usize) -> Result<(), ExportError> {
        let empty = self.fields.is_empty() && self.field.is_empty() && !self.closed;
        if !empty {
            self.next()?;
            if rows.len() > MAX_ROWS {
                return Err(ExportError::TooLong);
            }
            rows.push((self.line, std::mem::take(&mut self.fields)));
        }
        self.line = line;
        Ok(())
    }

    fn fault(&self, why: &str) -> ExportError {
        ExportError::Row { at: format!("line {}", self.line), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Vec<String>> {
        rows(text).expect("rows").into_iter().map(|(_, fields)| fields).collect()
    }

    #[test]
    fn quotes_commas_and_line_ends_are_as_the_standard_has_them() {
        assert_eq!(read("a,b\r\n1,\"x, \"\"y\"\"\"\n\n,\n"), [vec!["a", "b"], vec!["1", "x, \"y\""], vec!["", ""]]);
        assert_eq!(read("a\n\"two\nlines\""), [vec!["a"], vec!["two\nlines"]]);
        assert_eq!(rows("a\n\"two\nlines\"\nb").expect("rows")[2].0, 4);
        assert!(rows("a,\"b").is_err());
        assert!(rows(&"x".repeat(5_000)).is_err());
        assert!(rows(&",".repeat(300)).is_err());
    }
}
