// Azurite's blob server on a free port of 127.0.0.1, kept in memory. It has the containers that are
// named, prints what it says about itself as one line of JSON, and ends when its standard input does.
//
//   AZURITE_ACCOUNTS=ACCOUNT:KEY node server.cjs FOLDER PRIVATE_CONTAINER PUBLIC_CONTAINER

'use strict';

const crypto = require('node:crypto');
const Module = require('node:module');
const path = require('node:path');

const [folder, closed, open] = process.argv.slice(2);
const [account, key] = process.env.AZURITE_ACCOUNTS.split(/:(.*)/s);
const modules = path.join(folder, 'node_modules');

// What sends usage data to the maker is not installed, and not started either.
const load = Module._load;
Module._load = (name, ...rest) => (name === 'applicationinsights' ? {} : load(name, ...rest));

const part = (name) => require(path.join(modules, 'azurite/dist/src/blob', name)).default;
const BlobConfiguration = part('BlobConfiguration');
const BlobServer = part('BlobServer');

const sign = (text) =>
  crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');

// https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
async function create(address, container, access) {
  const headers = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': '2021-10-04' };
  if (access) headers['x-ms-blob-public-access'] = access;
  const named = Object.keys(headers).sort().map((name) => `${name}:${headers[name]}\n`).join('');
  const resource = `/${account}/${account}/${container}\nrestype:container`;
  headers.authorization = `SharedKey ${account}:${sign(`PUT${'\n'.repeat(12)}${named}${resource}`)}`;
  const url = `${address}/${account}/${container}?restype=container`;
  const answer = await fetch(url, { method: 'PUT', headers });
  if (answer.status !== 201) throw new Error(`${container}: ${answer.status} ${await answer.text()}`);
}

// https://learn.microsoft.com/rest/api/storageservices/create-account-sas
function token() {
  const until = new Date(Date.now() + 24 * 3600 * 1000).toISOString().replace(/\.\d+Z$/, 'Z');
  const [sp, ss, srt, sv] = ['rwc', 'b', 'o', '2021-10-04'];
  const text = [account, sp, ss, srt, '', until, '', '', sv, '', ''].join('\n');
  return new URLSearchParams({ sv, ss, srt, sp, se: until, sig: sign(text) }).toString();
}

async function main() {
  const files = ['metadata.json', 'extents.json'].map((name) => path.join(folder, name));
  // Not loose, no certificate, in memory; the version of the protocol is the client's to choose.
  const configuration = new BlobConfiguration(
    '127.0.0.1', 0, undefined, ...files, [], false, undefined, false, undefined, false, true,
    '', '', '', undefined, true, true,
  );
  const server = new BlobServer(configuration);
  await server.start();
  const address = server.getHttpServerAddress();
  await create(address, closed);
  await create(address, open, 'container');
  console.log(JSON.stringify({ endpoint: `${address}/${account}`, sas: token() }));
}

process.stdin.on('end', () => process.exit(0)).resume();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
