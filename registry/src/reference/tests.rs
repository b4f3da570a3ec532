use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn read(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> Reason {
    match text.parse::<Reference>() {
        Ok(reference) => panic!("{text} was read as {reference:?}"),
        Err(error) => error.reason().clone(),
    }
}

#[test]
fn every_form_is_read_and_written_back() {
    for text in [
        "oci://registry.example/casemate/cpu-sandbox:1.2.0",
        "oci://127.0.0.1:5000/a:latest",
        "oci://[::1]:5000/a/b__c/d--e.f:_x",
        &format!("oci://h/a@sha256:{HEX}"),
        &format!("oci://h/a:t@sha256:{HEX}"),
        "s3://bucket#latest",
        "s3://my.bucket/some/prefix#1.0",
        &format!("s3://bucket/p#@sha256:{HEX}"),
        "az://abc#latest",
        "az://1-container-9/some/prefix#1.0",
        &format!("az://container/p#t@sha256:{HEX}"),
        "file:///srv/releases#v1",
        "file:///srv/with%20blank#v1",
        &format!("https://h.example:8443/a/b%20c#t@sha256:{HEX}"),
        "http://localhost#latest",
    ] {
        assert_eq!(read(text).to_string(), text);
    }
}

#[test]
fn what_is_left_out_has_a_meaning() {
    for text in ["oci://h/a", "s3://bucket/p/", "az://container", "file:///srv", "https://h"] {
        let reference = read(text);
        assert_eq!(reference.selector, Selector::Tag(default_tag()), "{text}");
        let digest: Sha256Hash = HEX.parse().unwrap();
        let pinned = reference.pinned(digest);
        assert_eq!(read(&pinned.to_string()), pinned);
        assert_eq!(pinned.selector.digest(), Some(&digest));
    }
    assert_eq!(
        read(&format!("s3://bucket#sha256:{HEX}")),
        read(&format!("s3://bucket#@sha256:{HEX}"))
    );
    let Place::Directory { path } = read("file:///a%20b/c").place else { panic!() };
    assert_eq!(path, Path::new("/a b/c"));
}

#[test]
fn each_malformed_part_is_named() {
    let digest = format!("oci://h/a@sha256:{}", HEX.to_uppercase());
    let long = format!("https://h/{}", "a".repeat(MAX_LEN));
    for (text, reason) in [
        ("", Reason::Scheme),
        ("release", Reason::Scheme),
        ("ftp://h/a", Reason::Scheme),
        ("OCI://h/a", Reason::Scheme),
        ("oci://h", Reason::Repository),
        ("oci://h/", Reason::Repository),
        ("oci://h/A", Reason::Repository),
        ("oci://h/a//b", Reason::Repository),
        ("oci://h/a..b", Reason::Repository),
        ("oci://h/../a", Reason::Repository),
        ("oci:///a", Reason::Host),
        ("oci://-h/a", Reason::Host),
        ("oci://h:0/a", Reason::Host),
        ("oci://h:+1/a", Reason::Host),
        ("oci://h:65536/a", Reason::Host),
        ("oci://[::g]/a", Reason::Host),
        ("https://h h/a", Reason::Host),
        ("oci://h/a:", Reason::Tag),
        ("oci://h/a:.x", Reason::Tag),
        ("s3://bucket#", Reason::Tag),
        ("s3://bucket#a b", Reason::Tag),
        (&digest, Reason::Digest),
        ("oci://h/a@md5:00", Reason::Digest),
        ("oci://h/a:t@", Reason::Digest),
        ("s3://b#t", Reason::Bucket),
        ("s3://Bucket#t", Reason::Bucket),
        ("s3://-bucket-", Reason::Bucket),
        ("s3://bucket/a/../b", Reason::Path),
        ("az://", Reason::Container),
        ("az://ab#t", Reason::Container),
        (&format!("az://{}", "a".repeat(64)), Reason::Container),
        ("az://Container", Reason::Container),
        ("az://my.container", Reason::Container),
        ("az://my_container", Reason::Container),
        ("az://my--container", Reason::Container),
        ("az://-container", Reason::Container),
        ("az://container-", Reason::Container),
        ("az://container#", Reason::Tag),
        ("az://container/a//b", Reason::Path),
        ("azure://container", Reason::Scheme),
        ("gs://bucket", Reason::Scheme),
        ("https://h/a?x=1", Reason::Path),
        ("https://h/%2e%2e/a", Reason::Path),
        ("https://h/a%2fb", Reason::Path),
        ("https://h/%zz", Reason::Path),
        ("file:///a/../b", Reason::Path),
        ("file:///a/%00", Reason::Path),
        ("file://a/b", Reason::Relative),
        ("file://./a", Reason::Relative),
        (&long, Reason::TooLong),
    ] {
        assert_eq!(refused(text), reason, "{text}");
    }
}

#[test]
fn a_channel_is_read_and_written_back() {
    for text in [
        "oci://127.0.0.1:5000/a/b?channel=stable",
        "s3://bucket/p?channel=v1.0+x_y-z&image=cpu-sandbox",
        "s3://bucket?channel=stable&index=other.index",
        "az://container/p?channel=stable&image=cpu-sandbox",
        "file:///with%20blank?channel=stable&image=a&index=_x",
        "https://h.example:8443/a?channel=1",
        "http://localhost?channel=beta",
    ] {
        let Named::Channel(channel) = text.parse().unwrap() else { panic!("{text}") };
        assert_eq!(channel.to_string(), text);
        assert_eq!(text.parse::<Reference>().unwrap_err().reason(), &Reason::ChannelHere);
    }
    let channel: Channel = "s3://bucket?index=index&image=a&channel=c".parse().unwrap();
    assert_eq!(channel.to_string(), "s3://bucket?channel=c&image=a");
    assert_eq!(channel.index, Channel::index_tag());
    let named: Named = "oci://h/a:1".parse().unwrap();
    assert_eq!(named, Named::Release(read("oci://h/a:1")));
    let long = format!("s3://bucket?channel={}", "a".repeat(65));
    for (text, reason) in [
        ("oci://h/a:t?channel=c", Reason::ChannelAndMore),
        ("s3://bucket#t?channel=c", Reason::ChannelAndMore),
        ("s3://bucket?channel=c#t", Reason::ChannelAndMore),
        (&format!("oci://h/a@sha256:{HEX}?channel=c"), Reason::ChannelAndMore),
        (&format!("file:///a?channel=c@sha256:{HEX}"), Reason::ChannelAndMore),
        ("s3://bucket?", Reason::Query),
        ("s3://bucket?x=1", Reason::Query),
        ("s3://bucket?image=a", Reason::Query),
        ("s3://bucket?channel", Reason::Query),
        ("s3://bucket?channel=", Reason::Query),
        ("s3://bucket?channel=../x", Reason::Query),
        ("s3://bucket?channel=a&channel=b", Reason::Query),
        ("s3://bucket?channel=a&", Reason::Query),
        ("s3://bucket?channel=a&image=b c", Reason::Query),
        ("s3://bucket?channel=a?image=b", Reason::Query),
        (&long, Reason::Query),
        ("s3://bucket?channel=a&index=.x", Reason::Tag),
        ("s3://b?channel=a", Reason::Bucket),
        ("az://a--b?channel=a", Reason::Container),
        ("https://me:hunter2@h?channel=a", Reason::Credentials),
    ] {
        let error = text.parse::<Named>().unwrap_err();
        assert_eq!(error.reason(), &reason, "{text}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn passwords_are_refused_and_never_quoted() {
    for text in [
        "oci://me:hunter2@h/a",
        "https://hunter2@h/a",
        "s3://k:hunter2@bucket/p",
        "az://hunter2@container/p",
    ] {
        let error = text.parse::<Reference>().unwrap_err();
        assert_eq!(error.reason(), &Reason::Credentials);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn only_this_machine_may_be_asked_without_tls() {
    for (text, insecure) in [
        ("http://127.0.0.1:1/a", false),
        ("http://[::1]/a", false),
        ("http://localhost/a", false),
        ("http://localhost.example/a", true),
        ("http://10.0.0.1/a", true),
        ("https://10.0.0.1/a", false),
    ] {
        assert_eq!(read(text).place.is_insecure(), insecure, "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_read_is_written_as_it_is_read(text in "(oci|s3|az|file|https?)://[a-z0-9./:@#%_-]{0,60}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
        }
    }

    #[test]
    fn every_container_that_can_be_named_is_read(
        container in "[a-z0-9]{1,9}(-[a-z0-9]{1,9}){1,5}",
        prefix in "[a-zA-Z0-9_.]{3,9}(/[a-zA-Z0-9_.]{3,9}){0,3}",
    ) {
        let text = format!("az://{container}/{prefix}#t");
        let service = Service::Azure;
        let place = Place::Objects { service, bucket: container, prefix };
        prop_assert_eq!(text.parse::<Reference>().unwrap().place, place);
    }

    #[test]
    fn channels_are_written_as_they_are_read(
        store in "(oci|s3|az|file|https?)://[a-z0-9./:@#%_-]{0,40}",
        query in "(channel=[a-z.]{0,4}|image=[a-z+]{0,4}|index=[a-z_.-]{0,4}|&|[a-z#@?=]){0,8}",
    ) {
        let text = format!("{store}?{query}");
        if let Ok(named) = text.parse::<Named>() {
            prop_assert!(matches!(named, Named::Channel(_)), "{}", text);
            prop_assert_eq!(&named.to_string().parse::<Named>().unwrap(), &named);
        }
    }

    #[test]
    fn every_channel_that_can_be_named_is_read(
        name in "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,63}",
        image in prop::option::of("[a-zA-Z0-9][a-zA-Z0-9._+-]{0,63}"),
        index in "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}",
    ) {
        let place = Place::Directory { path: "/srv/a b?".into() };
        let channel = Channel { place, name, image, index: index.parse().unwrap() };
        prop_assert_eq!(channel.to_string().parse::<Channel>().unwrap(), channel);
    }
}
