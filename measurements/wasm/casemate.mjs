// Loads the module and gives a function that judges: a request in, its answer out. Both are
// objects; docs/formats.md has their fields.
export async function load(bytes) {
  const { instance } = await WebAssembly.instantiate(bytes, {});
  const { memory, casemate_alloc, casemate_answer, casemate_free } = instance.exports;
  return (request) => {
    const text = new TextEncoder().encode(JSON.stringify(request));
    const room = casemate_alloc(text.length);
    if (room === 0) throw new RangeError(`a request of ${text.length} bytes is too long`);
    new Uint8Array(memory.buffer, room, text.length).set(text);
    const answer = casemate_answer(room, text.length);
    // Judging may have made the memory grow: look at it anew.
    const [start, length] = new Uint32Array(memory.buffer, answer, 2);
    const json = new TextDecoder().decode(new Uint8Array(memory.buffer, start, length));
    casemate_free(answer);
    return JSON.parse(json);
  };
}
