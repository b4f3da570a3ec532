//! What is published: files cut into chunks by content, and a descriptor that names them all.

pub mod blob;
pub mod chunk;
pub mod described;
pub mod descriptor;
pub mod files;
pub mod index;
pub mod local;
pub mod manifest;
pub mod mirror;
pub mod publish;
pub mod pull;
pub mod source;
