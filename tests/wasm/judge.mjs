// usage: node judge.mjs MODULE REQUESTS
// Prints what the module imports and what it answers to each of the requests, as JSON.
import { readFile } from "node:fs/promises";
import { load } from "../../measurements/wasm/casemate.mjs";

const [module, requests] = process.argv.slice(2);
const bytes = await readFile(module);
const imports = WebAssembly.Module.imports(new WebAssembly.Module(bytes));
const judge = await load(bytes);
const answers = JSON.parse(await readFile(requests, "utf8")).map(judge);
console.log(JSON.stringify({ imports, answers }));
