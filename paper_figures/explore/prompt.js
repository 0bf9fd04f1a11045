"use strict";
// The text of an example and of a query, read as construct/prompts.py reads it.

function tokenId(data, token) {
  const id = data.alphabet.indexOf(token);
  if (id < 0) throw new Error(`“${token}” is not in the alphabet of ${data.alphabet.length} tokens`);
  return id;
}

/** The parts left of the arrow, and what stands right of it; null when there is no arrow. */
function cutAtArrow(data, line) {
  const { separator } = data.format, arrow = data.format.arrow.trim(), { inputs } = data.layout;
  if (inputs > 1 && separator === "") {
    // Tokens of one length, in code points, with nothing between them: the arrow has one place.
    const length = [...data.alphabet[0]].length, points = [...line];
    const rest = points.slice(inputs * length).join("").trimStart();
    if (!rest.startsWith(arrow)) return null;
    const parts = Array.from({ length: inputs }, (_, place) => points.slice(place * length, (place + 1) * length).join(""));
    return { parts, right: rest.slice(arrow.length).trim() };
  }
  const at = line.indexOf(arrow);
  if (at < 0) return null;
  const left = line.slice(0, at).trim();
  const parts = inputs === 1 ? [left] : left.split(separator.trim() || /\s+/).map((part) => part.trim());
  return { parts, right: line.slice(at + arrow.length).trim() };
}

function readInputs(data, line, cut) {
  const { inputs } = data.layout, arrow = data.format.arrow.trim();
  if (cut === null) throw new Error(`“${line}” does not have ${inputs} input${inputs === 1 ? "" : "s"} and then ${arrow}`);
  if (cut.parts.length !== inputs) throw new Error(`“${line}” has ${cut.parts.length} inputs, expected ${inputs}`);
  return cut.parts.map((part) => tokenId(data, part));
}

/** The inputs and the answer of an example, as ids. Throws what is wrong, in words. */
function parseExample(data, text) {
  const line = text.trim(), cut = cutAtArrow(data, line);
  return { inputs: readInputs(data, line, cut), answer: tokenId(data, cut.right) };
}

/** The ids of a query's inputs; its arrow may be left out. Throws what is wrong, in words. */
function parseQuery(data, text) {
  const line = text.trim(), cut = cutAtArrow(data, line) || cutAtArrow(data, line + data.format.arrow.trim());
  const inputs = readInputs(data, line, cut);
  if (cut.right) throw new Error(`“${line}” has an answer: a query ends with ${data.format.arrow.trim()}`);
  return inputs;
}

if (typeof module !== "undefined") module.exports = { parseExample, parseQuery };
