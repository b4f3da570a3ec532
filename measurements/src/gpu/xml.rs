//! The signature of a reference integrity manifest: W3C *XML Signature Syntax and Processing*,
//! version 1.1, in the one form that NVIDIA writes, over W3C *Canonical XML*, version 1.1.
//!
//! One enveloped signature over the whole document, ECDSA on P-384 with SHA-384. Documents with
//! anything that makes canonical XML hard (document types, comments, processing instructions,
//! attributes of `xml:`, namespaces taken back) are refused. What a caller reads is the very text
//! that was hashed, never the document that came.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};
use roxmltree::{Document, Node, NodeType, ParsingOptions};
use sha2::{Digest as _, Sha384};

/// Most nodes of a document.
const MAX_NODES: u32 = 20_000;
/// Deepest element.
const MAX_DEPTH: usize = 16;

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const XML: &str = "http://www.w3.org/XML/1998/namespace";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";

/// Why a document's signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// It is no XML.
    #[error("not the expected XML")]
    Malformed(#[from] roxmltree::Error),
    /// It has something that this code does not make canonical.
    #[error("the document has {0}, which is refused")]
    Refused(&'static str),
    /// The signature is not of the one form that is read.
    #[error("the signature has {found}, expected {expected}")]
    Form {
        /// What it has.
        found: String,
        /// What it should have.
        expected: &'static str,
    },
    /// The document is not the one that was signed.
    #[error("the document does not hash to what its signature says")]
    Digest,
    /// The signature is of another key.
    #[error("the signature is not of the key of its certificate")]
    Signature,
}

/// Reads a document.
pub(super) fn parse(text: &str) -> Result<Document<'_>, XmlError> {
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Ok(Document::parse_with_options(text, options)?)
}

/// What a signature says of itself, taken from its place and not yet believed.
pub(super) struct Enveloped {
    /// The document without its signature, canonical.
    pub(super) content: String,
    /// The certificates that came along, DER, the signer's first.
    pub(super) certificates: Vec<Vec<u8>>,
    signed_info: String,
    signature: Vec<u8>,
}

impl Enveloped {
    /// Takes a document and its signature apart and holds the document to the digest.
    pub(super) fn read(document: &Document<'_>) -> Result<Self, XmlError> {
        let root = document.root_element();
        let signatures = root.descendants().filter(|node| node.has_tag_name((DSIG, "Signature")));
        let [signature] = signatures.collect::<Vec<_>>()[..] else {
            return Err(form("another number of Signature elements", "one"));
        };
        if signature.parent() != Some(root) {
            return Err(form("a Signature elsewhere", "one right below the document's element"));
        }
        let [info, value, key] = elements(signature)[..] else {
            return Err(form("other parts", "SignedInfo, SignatureValue and KeyInfo"));
        };
        let digest = digest_of(named(info, "SignedInfo")?)?;
        let content = canonical(root, Some(signature))?;
        if Sha384::digest(&content).as_slice() != digest {
            return Err(XmlError::Digest);
        }
        let certificates = elements(named(key, "KeyInfo")?)
            .into_iter()
            .flat_map(elements)
            .filter(|node| node.has_tag_name((DSIG, "X509Certificate")))
            .map(base64)
            .collect::<Result<_, _>>()?;
        let signature = base64(named(value, "SignatureValue")?)?;
        Ok(Self { content, certificates, signed_info: canonical(info, None)?, signature })
    }

    /// Verifies the signature and hands out the content.
    pub(super) fn verify(self, key: &VerifyingKey) -> Result<String, XmlError> {
        let signature = Signature::from_slice(&self.signature).map_err(|_| XmlError::Signature)?;
        key.verify(self.signed_info.as_bytes(), &signature).map_err(|_| XmlError::Signature)?;
        Ok(self.content)
    }
}

fn form(found: &str, expected: &'static str) -> XmlError {
    XmlError::Form { found: found.chars().take(80).collect(), expected }
}

/// The digest of the one reference, to the whole document without its signature.
fn digest_of(info: Node<'_, '_>) -> Result<Vec<u8>, XmlError> {
    let [c14n, method, reference] = elements(info)[..] else {
        return Err(form("another SignedInfo", "one reference"));
    };
    algorithm(c14n, "CanonicalizationMethod", C14N)?;
    algorithm(method, "SignatureMethod", ECDSA_SHA384)?;
    if named(reference, "Reference")?.attribute("URI") != Some("") {
        return Err(form("a reference to a part", "a reference to the whole document"));
    }
    let [transforms, method, value] = elements(reference)[..] else {
        return Err(form("another Reference", "Transforms, DigestMethod and DigestValue"));
    };
    let [enveloped, c14n] = elements(named(transforms, "Transforms")?)[..] else {
        return Err(form("other transforms", "enveloped-signature and xml-c14n11"));
    };
    algorithm(enveloped, "Transform", ENVELOPED)?;
    algorithm(c14n, "Transform", C14N)?;
    algorithm(method, "DigestMethod", SHA384)?;
    base64(named(value, "DigestValue")?)
}

fn elements<'a, 'input>(node: Node<'a, 'input>) -> Vec<Node<'a, 'input>> {
    node.children().filter(Node::is_element).collect()
}

fn named<'a, 'input>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> Result<Node<'a, 'input>, XmlError> {
    if node.has_tag_name((DSIG, name)) { Ok(node) } else { Err(form(node.tag_name().name(), name)) }
}

fn algorithm(
    node: Node<'_, '_>,
    name: &'static str,
    expected: &'static str,
) -> Result<(), XmlError> {
    let found = named(node, name)?.attribute("Algorithm").unwrap_or("none");
    if found == expected && elements(node).is_empty() {
        return Ok(());
    }
    Err(form(found, expected))
}

fn base64(node: Node<'_, '_>) -> Result<Vec<u8>, XmlError> {
    let text: String =
        node.text().unwrap_or("").chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|_| form("no base64", "base64"))
}

/// Canonical XML of an element and all below it but `without`.
pub(super) fn canonical(
    apex: Node<'_, '_>,
    without: Option<Node<'_, '_>>,
) -> Result<String, XmlError> {
    if apex.document().root().children().any(|node| !node.is_element()) {
        return Err(XmlError::Refused("comments or processing instructions"));
    }
    let mut out = String::with_capacity(apex.range().len());
    write_element(&mut out, apex, &BTreeMap::new(), without, 0)?;
    Ok(out)
}

type Scope<'a> = BTreeMap<&'a str, &'a str>;

fn write_element<'a>(
    out: &mut String,
    node: Node<'a, 'a>,
    outer: &Scope<'a>,
    without: Option<Node<'_, '_>>,
    depth: usize,
) -> Result<(), XmlError> {
    if depth > MAX_DEPTH {
        return Err(XmlError::Refused("elements too deep"));
    }
    let name = name_at(node, node.range().start + 1)?;
    let scope: Scope<'a> = node
        .namespaces()
        .filter(|namespace| namespace.uri() != XML)
        .map(|namespace| (namespace.name().unwrap_or(""), namespace.uri()))
        .collect();
    if outer.keys().any(|prefix| !scope.contains_key(prefix))
        || scope.values().any(|uri| uri.is_empty())
    {
        return Err(XmlError::Refused("a namespace taken back"));
    }
    out.push('<');
    out.push_str(name);
    for (prefix, uri) in scope.iter().filter(|(prefix, uri)| outer.get(*prefix) != Some(*uri)) {
        out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
        out.push_str(prefix);
        write_value(out, uri);
    }
    let mut attributes: Vec<_> = node.attributes().collect();
    attributes.sort_by_key(|attribute| (attribute.namespace().unwrap_or(""), attribute.name()));
    for attribute in attributes {
        if attribute.namespace() == Some(XML) {
            return Err(XmlError::Refused("an attribute of xml:"));
        }
        out.push(' ');
        out.push_str(name_at(node, attribute.range().start)?);
        write_value(out, attribute.value());
    }
    out.push('>');
    for child in node.children().filter(|child| Some(*child) != without) {
        match child.node_type() {
            NodeType::Element => write_element(out, child, &scope, without, depth + 1)?,
            NodeType::Text => write_text(out, child.text().unwrap_or("")),
            NodeType::Root | NodeType::Comment | NodeType::PI => {
                return Err(XmlError::Refused("comments or processing instructions"));
            }
        }
    }
    // Writing to a String cannot fail.
    _ = write!(out, "</{name}>");
    Ok(())
}

/// The name with its prefix, which the parser resolves and forgets, as it stands in the text.
fn name_at<'a>(node: Node<'a, 'a>, start: usize) -> Result<&'a str, XmlError> {
    let rest = node.document().input_text().get(start..).unwrap_or("");
    let end = rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '='));
    let name = end.and_then(|end| rest.get(..end)).filter(|name| !name.is_empty());
    name.ok_or(XmlError::Refused("a name that cannot be read"))
}

fn write_value(out: &mut String, value: &str) {
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn write_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#xD;"),
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical_of(text: &str) -> Result<String, XmlError> {
        canonical(parse(text)?.root_element(), None)
    }

    #[test]
    fn canonical_form_sorts_expands_and_escapes() {
        // Sections 3.3 and 3.4 of the specification, without document types.
        let text = "<e5 a:attr=\"out\" b:attr=\"sorted\" attr2=\"all\" attr=\"I'm\"\n  \
                    xmlns:b=\"http://www.ietf.org\" xmlns:a=\"http://www.w3.org\" \
                    xmlns=\"http://example.org\"/>";
        let canonical = "<e5 xmlns=\"http://example.org\" xmlns:a=\"http://www.w3.org\" \
                         xmlns:b=\"http://www.ietf.org\" attr=\"I'm\" attr2=\"all\" \
                         b:attr=\"sorted\" a:attr=\"out\"></e5>";
        assert_eq!(canonical_of(text).unwrap(), canonical);
        let text = "<doc><text>First line&#x0d;&#10;Second line</text><value>&#x32;</value>\
                    <compute><![CDATA[value>\"0\" && value<\"10\" ?\"valid\":\"error\"]]></compute>\
                    <norm attr=' &apos;   &#x20;&#13;&#xa;&#9;   &apos; '/></doc>";
        let canonical = "<doc><text>First line&#xD;\nSecond line</text><value>2</value>\
                         <compute>value&gt;\"0\" &amp;&amp; value&lt;\"10\" ?\"valid\":\"error\"\
                         </compute><norm attr=\" '    &#xD;&#xA;&#x9;   ' \"></norm></doc>";
        assert_eq!(canonical_of(text).unwrap(), canonical);
        let text = "<a xmlns:x=\"u\"><x:b xmlns:x=\"u\" xmlns:y=\"v\"><y:c/></x:b></a>";
        let canonical = "<a xmlns:x=\"u\"><x:b xmlns:y=\"v\"><y:c></y:c></x:b></a>";
        assert_eq!(canonical_of(text).unwrap(), canonical);
    }

    #[test]
    fn what_makes_canonical_xml_hard_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(30), "</a>".repeat(30));
        for text in [
            "<!DOCTYPE a><a/>",
            "<a><!-- c --></a>",
            "<!-- c --><a/>",
            "<a><?pi x?></a>",
            "<a xml:lang=\"en\"/>",
            "<a xmlns=\"u\"><b xmlns=\"\"/></a>",
            "<a>",
            &deep,
        ] {
            assert!(canonical_of(text).is_err(), "{text}");
        }
    }
}
