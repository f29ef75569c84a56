//! Printing a whole chain of errors on one line.

use std::error::Error;
use std::fmt;

/// Shows an error and its sources, joined by `: `.
///
/// Errors in this crate say only their own part (style: whoever logs or sends one prints the chain, once).
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_reads_as_one_line() {
        let error = Outer(std::io::Error::other("no such file"));
        assert_eq!(Chain(&error).to_string(), "cannot start: no such file");
    }
}
