//! What a client of the daemon's socket sends: method, path and query on the first line, then a
//! body. Whatever is taken for an order to start a VM comes back as it was.
#![no_main]

#[path = "../../src/serve/restart.rs"]
#[allow(dead_code, unreachable_pub)]
mod restart;
#[path = "../../src/serve/wire.rs"]
#[allow(dead_code, unreachable_pub)]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (line, body) = bytes.split_at(end);
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
    let body = body.get(1..).unwrap_or_default();
    match wire::parse(method, target, body) {
        Ok(wire::Request::Run(request)) => {
            let again = serde_json::to_vec(&*request).unwrap();
            let parsed = wire::parse("POST", "/v1/vms", &again);
            assert_eq!(parsed, Ok(wire::Request::Run(request)));
        }
        Ok(wire::Request::Events(request)) => {
            assert!(request.wait <= wire::MAX_WAIT);
            assert!(request.limit.is_none_or(|limit| limit <= wire::MAX_EVENTS));
        }
        Ok(_) => {}
        Err(refusal) => assert!(refusal.to_string().len() < 4096, "refusals are short"),
    }
});
