//! The container of a .deb: an `ar` archive of a version, a control and a data member, the two
//! latter being compressed tar archives.

use std::io::{self, BufReader, Read};

/// The most that a control member may unpack to, in bytes.
const CONTROL_LIMIT: u64 = 16 << 20;

/// The most that a data member may unpack to, in bytes: more is taken for a bomb.
const DATA_LIMIT: u64 = 16 << 30;

/// In what way a file is no Debian package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The magic is missing.
    #[error("it is no ar archive")]
    NoArchive,
    /// The header of a member is broken.
    #[error("the header of a member is broken")]
    Header,
    /// Another member was expected.
    #[error("found the member {found:?} where {expected} was expected")]
    Member {
        /// The member's name.
        found: String,
        /// The expected one, without its compression.
        expected: &'static str,
    },
    /// A version of the format that nobody has seen.
    #[error("its format version is {found:?}, expected 2.x")]
    Version {
        /// The version.
        found: String,
    },
    /// It ends too early.
    #[error("it ends too early")]
    Truncated,
    /// A member does not decompress.
    #[error("a member does not decompress: {message}")]
    Compression {
        /// The decoder's words.
        message: String,
    },
    /// A member decompresses to more than is sensible.
    #[error("{member} unpacks to more than {limit} bytes")]
    TooLarge {
        /// The member.
        member: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The control archive is no tar archive.
    #[error("its control archive is broken: {message}")]
    Tar {
        /// The reader's words.
        message: String,
    },
    /// The control archive lacks the file `control`.
    #[error("it has no control file")]
    NoControl,
    /// The control file is of another package.
    #[error("it says that it is {found}")]
    OtherPackage {
        /// Name, version and architecture in the control file.
        found: String,
    },
}

/// Reads the parts of a .deb in the order they come in.
#[derive(Debug)]
pub(super) struct Parts<R> {
    reader: R,
}

/// Why reading a .deb broke off: the file itself, or its contents.
#[derive(Debug)]
pub(super) enum Broken {
    /// The file could not be read.
    Io(io::Error),
    /// It is no .deb.
    Malformed(Malformed),
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

struct Member {
    name: String,
    size: u64,
}

impl<R: Read> Parts<R> {
    /// Checks the container's magic and its version member.
    pub(super) fn open(mut reader: R) -> Result<Self, Broken> {
        let mut magic = [0; 8];
        fill(&mut reader, &mut magic)?;
        if &magic != b"!<arch>\n" {
            return Err(Malformed::NoArchive.into());
        }
        let mut parts = Self { reader };
        let member = parts.next_member()?;
        if member.name != "debian-binary" || member.size > 64 {
            return Err(Malformed::Member { found: member.name, expected: "debian-binary" }.into());
        }
        let mut version = vec![0; usize::try_from(member.size).unwrap_or(0)];
        fill(&mut parts.reader, &mut version)?;
        if !version.starts_with(b"2.") {
            let found = String::from_utf8_lossy(&version).trim().to_owned();
            return Err(Malformed::Version { found }.into());
        }
        parts.skip_padding(member.size)?;
        Ok(parts)
    }

    /// The text of the control file.
    pub(super) fn control(&mut self) -> Result<String, Broken> {
        let member = self.next_member()?;
        let mut archive = Vec::new();
        self.unpack(&member, "control.tar", CONTROL_LIMIT, &mut archive)?;
        control_text(&archive)
    }

    /// Unpacks the data member into `sink`; to be called after [`Parts::control`].
    pub(super) fn data(&mut self, sink: &mut dyn io::Write) -> Result<u64, Broken> {
        let member = self.next_member()?;
        self.unpack(&member, "data.tar", DATA_LIMIT, sink)
    }

    /// Reads what is left, so that a hash over the whole file can be taken.
    pub(super) fn drain(&mut self) -> Result<(), Broken> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop).map_err(Broken::Io)
    }

    fn next_member(&mut self) -> Result<Member, Broken> {
        let mut header = [0; 60];
        fill(&mut self.reader, &mut header)?;
        let text = std::str::from_utf8(&header).map_err(|_| Malformed::Header)?;
        if !text.is_ascii() || !text.ends_with("`\n") {
            return Err(Malformed::Header.into());
        }
        let size = text[48..58].trim_end();
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Malformed::Header.into());
        }
        let size = size.parse().map_err(|_| Malformed::Header)?;
        let name = text[..16].trim_end().trim_end_matches('/').to_owned();
        Ok(Member { name, size })
    }

    fn unpack(
        &mut self,
        member: &Member,
        expected: &'static str,
        limit: u64,
        sink: &mut dyn io::Write,
    ) -> Result<u64, Broken> {
        let compression = member.name.strip_prefix(expected).and_then(Compression::of);
        let Some(compression) = compression else {
            return Err(Malformed::Member { found: member.name.clone(), expected }.into());
        };
        let mut packed = Counted { reader: (&mut self.reader).take(member.size), read: 0 };
        let unpacked = {
            let mut stream = compression.reader(&mut packed)?;
            copy_limited(&mut stream, sink, limit, expected)?
        };
        // What a decoder leaves unread belongs to the member still; what is missing is truncation.
        io::copy(&mut packed, &mut io::sink()).map_err(Broken::Io)?;
        if packed.read != member.size {
            return Err(Malformed::Truncated.into());
        }
        self.skip_padding(member.size)?;
        Ok(unpacked)
    }

    fn skip_padding(&mut self, size: u64) -> Result<(), Broken> {
        if size % 2 == 1 {
            let mut byte = [0];
            // The last member's padding is sometimes left out.
            let _ = self.reader.read(&mut byte).map_err(Broken::Io)?;
        }
        Ok(())
    }
}

struct Counted<R> {
    reader: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.read += count as u64;
        Ok(count)
    }
}

#[derive(Debug, Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    fn of(suffix: &str) -> Option<Self> {
        match suffix {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    fn reader<'a, R: Read + 'a>(self, packed: R) -> Result<Box<dyn Read + 'a>, Broken> {
        let packed = BufReader::with_capacity(1 << 16, packed);
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(packed)),
            Self::Zstd => Box::new(
                ruzstd::decoding::StreamingDecoder::new(packed)
                    .map_err(|e| Malformed::Compression { message: e.to_string() })?,
            ),
        })
    }
}

/// Copies at most `limit` bytes. A failing reader means bad contents, a failing writer does not.
fn copy_limited(
    from: &mut dyn Read,
    to: &mut dyn io::Write,
    limit: u64,
    member: &'static str,
) -> Result<u64, Broken> {
    let mut buffer = vec![0; 1 << 17];
    let mut total = 0_u64;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Malformed::Compression { message: error.to_string() }.into());
            }
        };
        total += count as u64;
        if total > limit {
            return Err(Malformed::TooLarge { member, limit }.into());
        }
        to.write_all(&buffer[..count]).map_err(Broken::Io)?;
    }
}

fn control_text(archive: &[u8]) -> Result<String, Broken> {
    let bad = |error: &io::Error| Malformed::Tar { message: error.to_string() };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(|e| bad(&e))? {
        let mut entry = entry.map_err(|e| bad(&e))?;
        let is_control =
            matches!(entry.path_bytes().as_ref(), b"control" | b"./control" | b"/control");
        if is_control && entry.header().entry_type().is_file() {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(|e| bad(&e))?;
            return Ok(text);
        }
    }
    Err(Malformed::NoControl.into())
}

/// Fills `buffer`, telling a file that ends early from one that cannot be read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), Broken> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Malformed::Truncated.into(),
        _ => Broken::Io(error),
    })
}
