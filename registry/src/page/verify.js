"use strict";
// Verifies signatures. With the WebAssembly module on the page by the code of `casemate release
// verify`: keys, certificates, logs and timestamps. Without it what keys signed, with the browser's
// own cryptography; bundles with certificates are then left to `casemate release verify`.
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
    if (statement._type !== data.statement_type || statement.predicateType !== data.predicate_type) {
      return "it is another kind of statement";
    }
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
    const { dsseEnvelope: envelope, verificationMaterial: material } = JSON.parse(file.text);
    if (envelope.payloadType !== data.payload_type || envelope.signatures.length !== 1) {
      return { text: "refused: it is no envelope around one signed statement" };
    }
    if (material.tlogEntries?.length || material.timestampVerificationData?.rfc3161Timestamps?.length) {
      return { text: "not verified here: it has a log entry or a timestamp" };
    }
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

  // The module, with what it takes of WASI: the time, random bytes, and no environment.
  const module = async (text) => {
    const packed = new Blob([bytes(text)]).stream();
    const code = new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    let memory;
    const view = () => new DataView(memory.buffer);
    const wasi = {
      clock_time_get: (_clock, _precision, at) => {
        view().setBigUint64(at, BigInt(Date.now()) * 1000000n, true);
        return 0;
      },
      random_get: (at, length) => {
        crypto.getRandomValues(new Uint8Array(memory.buffer, at, length));
        return 0;
      },
      environ_sizes_get: (count, size) => {
        view().setUint32(count, 0, true);
        view().setUint32(size, 0, true);
        return 0;
      },
      environ_get: () => 0,
      fd_write: () => 8,
      proc_exit: () => {
        throw new Error("the module gave up");
      },
    };
    const imports = { wasi_snapshot_preview1: wasi };
    const { exports } = (await WebAssembly.instantiate(await code, imports)).instance;
    memory = exports.memory;
    return (request) => {
      const question = utf8(JSON.stringify(request));
      const room = exports.casemate_alloc(question.length);
      if (room === 0) throw new Error("there is too much to verify");
      new Uint8Array(memory.buffer, room, question.length).set(question);
      const answer = exports.casemate_signatures(room, question.length);
      const [start, length] = new Uint32Array(memory.buffer, answer, 2);
      const found = new TextDecoder().decode(new Uint8Array(memory.buffer, start, length));
      exports.casemate_free(answer);
      return JSON.parse(found);
    };
  };

  // What the module finds.
  const byModule = async (element, digest) => {
    const { manifest, policy, bundles } = data;
    const found = (await module(element.textContent))({ manifest, policy, bundles });
    if (found.error) throw new Error(found.error);
    const { signatures } = found;
    if (signatures.manifest_sha256 !== digest) throw new Error("the module judged another manifest");
    for (const { file, problem, signer, identity, signed_by } of signatures.bundles) {
      const who = identity?.certificate && ` (${identity.certificate.subject})`;
      const when = signed_by ? `, before ${signed_by}` : "";
      row(file, problem ? `refused: ${problem}` : `signed by ${signer ?? "one who counts already"}${who ?? ""}${when}`);
    }
    return signatures.signers;
  };

  // What the browser finds by itself.
  const byKeys = async (manifest, digest) => {
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
    return Array.from(counted);
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
    const element = document.getElementById("module");
    const signers = await (element ? byModule(element, digest) : byKeys(manifest, digest));
    const names = signers.join(", ") || "nobody";
    const count = `${signers.length} of the ${data.threshold} signers needed`;
    const good = signers.length >= data.threshold && !data.lacks;
    const lacks = data.lacks ? `, but ${data.lacks}` : "";
    say(`Verified in this browser: signed by ${names}, ${count}${lacks}. ${listed.length} digests are the manifest's.`, good);
  } catch (error) {
    say(`Not verified in this browser: ${error.message}.`, false);
  }
})();
