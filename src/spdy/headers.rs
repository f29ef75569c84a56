//! Header blocks: names and values, compressed with what was sent before and with a dictionary both sides know. Pure.

use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// What a block may come to, uncompressed. Kubernetes' are of some hundred bytes.
const BLOCK_BYTES_MAX: usize = 16 * 1024;
/// How many headers a block may have.
const HEADERS_MAX: usize = 64;

/// Names in lower case, and values. Several values of one name are one, with NUL between them.
pub type Headers = Vec<(String, String)>;

/// What is wrong with a block. The connection is lost with it: both sides' compression has gone different ways.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// It is not compressed as it has to be.
    #[error("headers are not compressed with zlib and SPDY/3's dictionary")]
    Compression,
    /// It is larger than any that is expected.
    #[error("headers are too large")]
    TooLarge,
    /// Its lengths do not add up.
    #[error("headers are malformed")]
    Malformed,
    /// Names have to be in lower case.
    #[error("the header {0:?} is not in lower case")]
    UpperCase(String),
}

/// Reads the blocks of one direction, in order.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

/// Writes the blocks of one direction, in order.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Reads one block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, HeadersError> {
        let mut plain = Vec::with_capacity(BLOCK_BYTES_MAX);
        let before = self.0.total_in();
        loop {
            let read = usize::try_from(self.0.total_in() - before).expect("no more is read than there is");
            let rest = &block[read..];
            if rest.is_empty() {
                return parse(&plain);
            }
            if plain.len() == plain.capacity() {
                return Err(HeadersError::TooLarge);
            }
            match self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(flate2::Status::Ok) => {}
                // The first block of a connection names the dictionary.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| HeadersError::Compression)?;
                }
                // A block never ends the stream of blocks, and with room left every call makes some headway.
                Ok(flate2::Status::StreamEnd | flate2::Status::BufError) | Err(_) => {
                    return Err(HeadersError::Compression);
                }
            }
        }
    }
}

impl Deflater {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).expect("nothing was compressed yet");
        Self(compress)
    }

    /// Writes one block.
    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = unparse(headers);
        // What cannot be compressed is stored, with some bytes around it, and a flush ends with an empty block.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 64);
        let written = self.0.compress_vec(&plain, &mut block, FlushCompress::Sync);
        written.expect("compressing what was begun properly does not fail");
        debug_assert!(block.len() < block.capacity(), "with room left all of it was written");
        block
    }
}

/// A count, then a length and a text for each name and value.
fn parse(mut plain: &[u8]) -> Result<Headers, HeadersError> {
    let count = plain.try_get_u32().ok().and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or(HeadersError::Malformed)?;
    if count > HEADERS_MAX {
        return Err(HeadersError::TooLarge);
    }
    let headers = (0..count).map(|_| {
        let name = text(&mut plain)?;
        if name.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(HeadersError::UpperCase(name));
        }
        Ok((name, text(&mut plain)?))
    });
    let headers = headers.collect::<Result<_, _>>()?;
    if plain.is_empty() { Ok(headers) } else { Err(HeadersError::Malformed) }
}

fn text(plain: &mut &[u8]) -> Result<String, HeadersError> {
    let length = plain.try_get_u32().ok().and_then(|length| usize::try_from(length).ok());
    let (text, rest) = length.and_then(|length| plain.split_at_checked(length)).ok_or(HeadersError::Malformed)?;
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeadersError::Malformed)
}

fn unparse(headers: &Headers) -> Vec<u8> {
    let length = |length: usize| u32::try_from(length).expect("headers are short").to_be_bytes();
    let mut plain = length(headers.len()).to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend(length(text.len()));
        plain.write_all(text.as_bytes()).expect("writing to memory does not fail");
    }
    plain
}

/// What both sides expect to come up: words, each after its length, then texts that follow each other.
///
/// Source: SPDY protocol, draft 3, 2.6.10.1.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS {
        dictionary.extend(u32::try_from(word.len()).expect("words are short").to_be_bytes());
        dictionary.extend(word.as_bytes());
    }
    dictionary.extend(TEXTS.concat().into_bytes());
    dictionary
});

#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "age", "allow", "authorization", "cache-control", "connection",
    "content-base", "content-encoding", "content-language", "content-length", "content-location", "content-md5",
    "content-range", "content-type", "date", "etag", "expect", "expires", "from", "host", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location",
    "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after",
    "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
    "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url", "public",
    "set-cookie", "keep-alive", "origin",
];

const TEXTS: [&str; 9] = [
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,public",
    "privatemax-age=gzip,deflate,sdch",
    "charset=utf-8charset=iso-8859-1,utf-,*,",
    "enq=0.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let adler = Compress::new(Compression::fast(), true).set_dictionary(&DICTIONARY).unwrap();
        assert_eq!((DICTIONARY.len(), adler), (1423, 0xe3c6_a7c2));
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn blocks_build_on_those_before() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let incompressible: String = (0..8192_u32).map(|n| char::from(b'!' + (n * n % 89) as u8)).collect();
        for pairs in [
            headers(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]),
            headers(&[]),
            headers(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            headers(&[("a", &incompressible)]),
            headers(&[("", "")]),
        ] {
            assert_eq!(inflater.read(&deflater.write(&pairs)), Ok(pairs));
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let first = |plain: &[u8]| {
            let mut compress = Compress::new(Compression::fast(), true);
            compress.set_dictionary(&DICTIONARY).unwrap();
            let mut block = Vec::with_capacity(64 * 1024);
            compress.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
            Inflater::new().read(&block)
        };
        for (plain, expected) in [
            (&b""[..], HeadersError::Malformed),
            (b"\0\0\0\x01\0\0\0\x01a", HeadersError::Malformed),
            (b"\0\0\0\x01\0\0\0\x01a\xff\xff\xff\xffb", HeadersError::Malformed),
            (b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0", HeadersError::Malformed),
            (b"\0\0\0\0surplus", HeadersError::Malformed),
            (b"\0\0\0\x01\0\0\0\x01A\0\0\0\0", HeadersError::UpperCase("A".to_owned())),
            (b"\xff\xff\xff\xff", HeadersError::TooLarge),
            (&[0; 1 << 20], HeadersError::TooLarge),
        ] {
            assert_eq!(first(plain), Err(expected), "{:?}", &plain[..plain.len().min(20)]);
        }
        assert_eq!(Inflater::new().read(b"plain text"), Err(HeadersError::Compression));
        assert_eq!(Inflater::new().read(b""), Err(HeadersError::Malformed));
    }
}
