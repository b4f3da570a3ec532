"use strict";
// Verifies what keys signed, with the browser's own cryptography. Bundles with certificates need a
// trusted root, which no page can bring: those are left to `casemate release verify`.
(async () => {
  const data = JSON.parse(document.getElementById("release").textContent);
  const out = document.getElementById("verdict");
  const say = (text, good) => {
    out.textContent = text;
    out.className = good ? "good" : "warning";
  };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const hex = (buffer) =>
    Array.from(new Uint8Array(buffer), (b) => b.toString(16).padStart(2, "0")).join("");
  const sha256 = async (message) => hex(await crypto.subtle.digest("SHA-256", message));
  const utf8 = (text) => new TextEncoder().encode(text);

  // DSSE's pre-authentication encoding.
  const encode = (type, payload) => {
    const head = utf8(`DSSEv1 ${utf8(type).length} ${type} ${payload.length} `);
    const whole = new Uint8Array(head.length + payload.length);
    whole.set(head);
    whole.set(payload, head.length);
    return whole;
  };

  // ECDSA signatures come as DER and are taken as two numbers of fixed length.
  const raw = (der, size) => {
    let at = 0;
    const header = (tag) => {
      if (der[at] !== tag || der[at + 1] > 127) throw new Error("the signature is no DER");
      at += 2;
      return der[at - 1];
    };
    const number = () => {
      const length = header(2);
      let digits = der.slice(at, at + length);
      at += length;
      while (digits.length > size && digits[0] === 0) digits = digits.slice(1);
      // Of another curve, so of another key.
      if (digits.length > size) return null;
      const fixed = new Uint8Array(size);
      fixed.set(digits, size - digits.length);
      return fixed;
    };
    if (header(0x30) !== der.length - 2) throw new Error("the signature is no DER");
    const [r, s] = [number(), number()];
    if (at !== der.length) throw new Error("the signature is no DER");
    return r && s && new Uint8Array([...r, ...s]);
  };

  const signed = async (signer, message, signature) => {
    const kind = { name: "ECDSA", namedCurve: signer.curve };
    const key = await crypto.subtle.importKey("spki", bytes(signer.spki), kind, false, ["verify"]);
    const size = Number(signer.curve.slice(2));
    const how = { name: "ECDSA", hash: `SHA-${size}` };
    const numbers = raw(signature, size / 8);
    return numbers !== null && crypto.subtle.verify(how, key, numbers, message);
  };

  // What the statement must say: this manifest, and the files that it names, and no other.
  const problem = (statement, manifest, digest) => {
    if (statement.predicateType !== data.predicate_type) return "it is another kind of statement";
    const named = new Map(statement.subject.map((one) => [one.name, one.digest.sha256]));
    const files = Object.entries(manifest.artifacts).map(([name, file]) => [name, file.sha256]);
    files.push(["manifest.json", digest]);
    const same = files.every(([name, hash]) => named.get(name) === hash);
    if (!same || named.size !== files.length || statement.subject.length !== files.length) {
      return "it is about other files";
    }
    return null;
  };

  const judge = async (file, manifest, digest) => {
    const envelope = JSON.parse(file.text).dsseEnvelope;
    const payload = bytes(envelope.payload);
    const message = encode(envelope.payloadType, payload);
    const signature = bytes(envelope.signatures[0].sig);
    for (const signer of data.signers) {
      if (await signed(signer, message, signature)) {
        const statement = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
        const wrong = problem(statement, manifest, digest);
        return wrong ? { text: `refused: ${wrong}` } : { text: `signed by ${signer.name}`, signer };
      }
    }
    return { text: "not verified here: signed by none of the keys above" };
  };

  const table = document.getElementById("verified");
  const row = (...cells) => {
    const line = table.insertRow();
    for (const text of cells) line.insertCell().textContent = text;
  };
  try {
    if (!crypto.subtle) throw new Error("no cryptography without https");
    const manifestBytes = bytes(data.manifest);
    const digest = await sha256(manifestBytes);
    const manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(manifestBytes));
    const shown = Array.from(document.querySelectorAll("td.digest"), (cell) => cell.textContent);
    const listed = manifest.reference_values.map((value) => value.measurement);
    if (digest !== data.manifest_sha256) throw new Error("the manifest has another SHA-256");
    if (shown.slice().sort().join() !== listed.slice().sort().join()) {
      throw new Error("the digests shown are not the manifest's");
    }
    const counted = new Set();
    for (const file of data.bundles) {
      let found;
      try {
        found = await judge(file, manifest, digest);
      } catch (error) {
        found = { text: `refused: ${error.message}` };
      }
      if (found.signer) counted.add(found.signer.name);
      row(file.path, found.text);
    }
    const names = Array.from(counted).join(", ") || "nobody";
    const count = `${counted.size} of the ${data.threshold} signers needed`;
    const good = counted.size >= data.threshold;
    say(`Verified in this browser: signed by ${names}, ${count}. ${listed.length} digests are the manifest's.`, good);
  } catch (error) {
    say(`Not verified in this browser: ${error.message}.`, false);
  }
})();
