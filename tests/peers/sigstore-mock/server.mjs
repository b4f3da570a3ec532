// A stand-in for Sigstore on 127.0.0.1: a certificate authority (Fulcio's API), a log (Rekor's) and
// a timestamp authority, made of @sigstore/mock. It believes every token. Writes
// signing_config.json, signing_config_early.json (certificates of an hour ago) and
// trusted_root.json into DIR, then prints its address; ends when standard input does.
//
//   node server.mjs MODULES DIR
import { X509Certificate, createHash, generateKeyPairSync, sign } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [, , modules, dir] = process.argv;
const require = createRequire(`${modules}/node_modules/@sigstore/mock/package.json`);
const mock = require("@sigstore/mock");
const pkijs = require("pkijs");
const HOUR = 3600 * 1000;

const pair = (namedCurve) => generateKeyPairSync("ec", { namedCurve });
const whole = () => new Date(Math.floor(Date.now() / 1000) * 1000);

const server = createServer();
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}`;

const ctKeys = pair("P-256");
const ctlog = await mock.initializeCTLog(ctKeys);
// A signed certificate timestamp (RFC 6962, 3.2), written here: @sigstore/mock and the newest pkijs
// disagree about it.
ctlog.log = async (certificate, issuerKeyHash) => {
    const tbs = Buffer.from(pkijs.Certificate.fromBER(certificate).encodeTBS().toBER());
    const time = Buffer.alloc(8);
    time.writeBigUInt64BE(BigInt(Date.now()));
    const number = (value, bytes) => {
        const buffer = Buffer.alloc(bytes);
        buffer.writeUIntBE(value, 0, bytes);
        return buffer;
    };
    const none = number(0, 2);
    const entry = [number(1, 2), Buffer.from(issuerKeyHash), number(tbs.length, 3), tbs, none];
    const signed = Buffer.concat([number(0, 2), time, ...entry]);
    const signature = sign("sha256", signed, ctKeys.privateKey);
    const head = [number(0, 1), Buffer.from(ctlog.logID), time, none, Buffer.from([4, 3])];
    const sct = Buffer.concat([...head, number(signature.length, 2), signature]);
    return Buffer.concat([number(sct.length, 2), sct]);
};
const ca = await mock.initializeCA(pair("P-384"), ctlog);
const tlog = await mock.initializeTLog(url, pair("P-256"));
const tsa = await mock.initializeTSA(pair("P-384"));
tsa.getCurrentTime = whole;
// A JavaScript number does not hold a nonce of 64 bits.
const tstInfo = tsa.tstInfo.bind(tsa);
tsa.tstInfo = (request) => {
    const info = tstInfo({ ...request, nonce: 0 });
    info.nonce = request.nonce;
    info.accuracy = undefined;
    return info;
};

const fulcio = mock.fulcioHandler(ca, { strict: true }).fn;
const rekor = mock.rekorHandler(tlog, { strict: true }).fn;
const hash = (bytes) => createHash("sha256").update(bytes).digest("hex");

// What Rekor keeps of a proposed entry.
function canonical(proposed) {
    if (proposed.kind !== "dsse") return proposed;
    const { envelope, verifiers } = proposed.spec.proposedContent;
    const { payload, signatures } = JSON.parse(envelope);
    // Certificates are written as OpenSSL does, however they came.
    const pem = new X509Certificate(Buffer.from(verifiers[0], "base64")).toString();
    const verifier = Buffer.from(pem).toString("base64");
    return {
        apiVersion: "0.0.1",
        kind: "dsse",
        spec: {
            envelopeHash: { algorithm: "sha256", value: hash(envelope) },
            payloadHash: { algorithm: "sha256", value: hash(Buffer.from(payload, "base64")) },
            signatures: signatures.map(({ sig }) => ({ signature: sig, verifier })),
        },
    };
}

async function timestamp(body) {
    const request = pkijs.TimeStampReq.fromBER(body);
    const response = await tsa.timestamp({
        artifactHash: Buffer.from(request.messageImprint.hashedMessage.valueBlock.valueHexView),
        hashAlgorithmOID: request.messageImprint.hashAlgorithm.algorithmId,
        nonce: request.nonce,
        policyOID: "1.3.6.1.4.1.57264.2",
        certReq: request.certReq ?? false,
    });
    return { statusCode: 201, response, contentType: "application/timestamp-reply" };
}

const routes = {
    "/api/v2/signingCert": (body) => {
        ca.getCurrentTime = whole;
        return fulcio(body.toString());
    },
    "/early/api/v2/signingCert": (body) => {
        ca.getCurrentTime = () => new Date(whole() - HOUR);
        return fulcio(body.toString());
    },
    "/api/v1/log/entries": (body) => rekor(JSON.stringify(canonical(JSON.parse(body.toString())))),
    "/api/v1/timestamp": timestamp,
};

server.on("request", (request, answer) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", async () => {
        const route = routes[request.url];
        let result = { statusCode: 404, response: "nothing here" };
        if (route && request.method === "POST") {
            try {
                result = await route(Buffer.concat(chunks));
            } catch (error) {
                result = { statusCode: 400, response: String(error) };
            }
        }
        const type = result.contentType ?? "application/json";
        answer.writeHead(result.statusCode, { "Content-Type": type });
        answer.end(result.response);
    });
});

const validFor = { start: new Date(Date.now() - 24 * HOUR).toISOString() };
const base64 = (bytes) => Buffer.from(bytes).toString("base64");
const log = (key, keyId) => ({
    baseUrl: url,
    hashAlgorithm: "SHA2_256",
    publicKey: { rawBytes: base64(key), keyDetails: "PKIX_ECDSA_P256_SHA_256", validFor },
    logId: { keyId: base64(keyId) },
});
const authority = (name, ...certificates) => ({
    subject: { organization: "sigstore.mock", commonName: name },
    uri: url,
    certChain: { certificates: certificates.map((bytes) => ({ rawBytes: base64(bytes) })) },
    validFor,
});
const digest = (key) => createHash("sha256").update(key).digest();
const root = {
    mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    tlogs: [log(tlog.publicKey, digest(tlog.publicKey))],
    certificateAuthorities: [authority("sigstore", ca.rootCertificate)],
    ctlogs: [log(ctlog.publicKey, ctlog.logID)],
    timestampAuthorities: [authority("tsa", tsa.intCertificate, tsa.rootCertificate)],
};
const service = (at, majorApiVersion) => ({
    url: at,
    majorApiVersion,
    validFor,
    operator: "sigstore.mock",
});
const config = (fulcioAt) => ({
    mediaType: "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    caUrls: [service(fulcioAt, 1)],
    oidcUrls: [],
    rekorTlogUrls: [service(url, 1)],
    rekorTlogConfig: { selector: "ANY" },
    tsaUrls: [service(`${url}/api/v1/timestamp`, 1)],
    tsaConfig: { selector: "ANY" },
});
writeFileSync(`${dir}/trusted_root.json`, JSON.stringify(root));
writeFileSync(`${dir}/signing_config.json`, JSON.stringify(config(url)));
writeFileSync(`${dir}/signing_config_early.json`, JSON.stringify(config(`${url}/early`)));
console.log(url);
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
