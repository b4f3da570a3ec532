//! A channel of a signed index: which release is meant is said by those who signed the index, not
//! by whoever keeps it.
//!
//! ```text
//! STORE?channel=NAME[&image=NAME][&index=TAG]
//! ```
//!
//! `STORE` is a reference without tag and digest.

use std::fmt;
use std::str::FromStr;

use super::error::{Reason, ReferenceError};
use super::{MAX_LEN, Place, Reference, Tag, parse};
use crate::index::is_word;

/// The tag of an index where none is named.
const INDEX_TAG: &str = "index";

/// A channel of the index that lies in a store, which has the releases too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The store.
    pub place: Place,
    /// The channel.
    pub name: String,
    /// The image, where one is named.
    pub image: Option<String>,
    /// The tag that points to the index.
    pub index: Tag,
}

impl Channel {
    /// The tag that an index has where none is named.
    #[must_use]
    pub fn index_tag() -> Tag {
        Tag(INDEX_TAG.to_owned())
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?channel={}", self.place, self.name)?;
        if let Some(image) = &self.image {
            write!(f, "&image={image}")?;
        }
        if self.index.as_str() == INDEX_TAG { Ok(()) } else { write!(f, "&index={}", self.index) }
    }
}

impl FromStr for Channel {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse_channel(text).map_err(|reason| ReferenceError::new(text, reason))
    }
}

fn parse_channel(text: &str) -> Result<Channel, Reason> {
    if text.len() > MAX_LEN {
        return Err(Reason::TooLong);
    }
    let (store, query) = text.split_once('?').ok_or(Reason::Query)?;
    let store = parse(store)?;
    if store.selector.is_some() || query.contains(['#', '@']) {
        return Err(Reason::ChannelAndMore);
    }
    let (mut name, mut image, mut index) = (None, None, None);
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').ok_or(Reason::Query)?;
        let slot = match key {
            "channel" => &mut name,
            "image" => &mut image,
            "index" => &mut index,
            _ => return Err(Reason::Query),
        };
        let good = key == "index" || is_word(value);
        if !good || slot.replace(value).is_some() {
            return Err(Reason::Query);
        }
    }
    Ok(Channel {
        place: store.place,
        name: name.ok_or(Reason::Query)?.to_owned(),
        image: image.map(str::to_owned),
        index: index.map_or_else(|| Ok(Channel::index_tag()), str::parse)?,
    })
}

/// A release as it is named where one is used: by tag or digest, or by the channel of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By tag or digest.
    Release(Reference),
    /// By a channel.
    Channel(Channel),
}

impl Named {
    /// The store.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::Release(reference) => &reference.place,
            Self::Channel(channel) => &channel.place,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release(reference) => reference.fmt(f),
            Self::Channel(channel) => channel.fmt(f),
        }
    }
}

impl FromStr for Named {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains('?') {
            text.parse().map(Self::Channel)
        } else {
            text.parse().map(Self::Release)
        }
    }
}
