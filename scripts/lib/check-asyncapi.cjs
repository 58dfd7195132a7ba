// node check-asyncapi.cjs NODE_MODULES FILE: fails when the AsyncAPI document has errors; prints what the parser found.
// CommonJS, so that the parser can be required from a directory that is not above this file.

const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");
const { join } = require("node:path");

const ERROR = 0; // of the severities, 0 is the worst
const NAMES = ["error", "warning", "information", "hint"];

async function main([modules, file]) {
  const { Parser } = createRequire(join(modules, "any.js"))("@asyncapi/parser");
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: file });
  for (const found of diagnostics) {
    const line = found.range.start.line + 1;
    console.log(`${file}:${line}: ${NAMES[found.severity]}: ${found.message} (${found.path.join(".")})`);
  }
  if (document === undefined || diagnostics.some((found) => found.severity === ERROR)) {
    process.exitCode = 1;
  } else {
    console.log(`${document.info().title()}: AsyncAPI ${document.version()}, ${document.allChannels().length} channels`);
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
