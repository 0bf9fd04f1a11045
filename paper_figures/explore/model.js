"use strict";
// The forward pass of a construction in float64, from its sparse weights, and the exact oracle from the tasks.

/** Numbers from base64; `type` is a typed array's constructor. */
function decodeArray(text, type) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return new type(bytes.buffer);
}

/** A sparse matrix, row by row: entries of row r are at starts[r] up to starts[r + 1]. */
function decodeMatrix(stored) {
  return {
    rows: stored.rows,
    columns: stored.columns,
    starts: decodeArray(stored.starts, Int32Array),
    places: decodeArray(stored.places, Int32Array),
    values: decodeArray(stored.values, Float32Array),
  };
}

/** x A for a vector x. */
function timesMatrix(x, matrix) {
  const product = new Float64Array(matrix.columns);
  for (let row = 0; row < matrix.rows; row++) {
    const factor = x[row];
    if (factor === 0) continue;
    for (let at = matrix.starts[row]; at < matrix.starts[row + 1]; at++) {
      product[matrix.places[at]] += factor * matrix.values[at];
    }
  }
  return product;
}

function addTo(target, added) {
  for (let at = 0; at < target.length; at++) target[at] += added[at];
}

/** Decode all weights once. */
function decodeModel(data) {
  const weights = data.weights;
  return {
    token: decodeMatrix(weights.token),
    position: decodeMatrix(weights.position),
    unembedding: decodeMatrix(weights.unembedding),
    layers: weights.layers.map((layer) => ({
      heads: layer.heads.map((head) => ({
        query: decodeMatrix(head.query),
        key: decodeMatrix(head.key),
        value: decodeMatrix(head.value),
        output: decodeMatrix(head.output),
      })),
      wIn: decodeMatrix(layer.w_in),
      biasIn: decodeArray(layer.bias_in, Float32Array),
      wOut: decodeMatrix(layer.w_out),
      biasOut: decodeArray(layer.bias_out, Float32Array),
    })),
  };
}

function addRow(target, matrix, row) {
  for (let at = matrix.starts[row]; at < matrix.starts[row + 1]; at++) {
    target[matrix.places[at]] += matrix.values[at];
  }
}

/** softmax over the first `count` scores. */
function softmax(scores, count) {
  let largest = -Infinity;
  for (let at = 0; at < count; at++) largest = Math.max(largest, scores[at]);
  const weights = new Float64Array(scores.length);
  let sum = 0;
  for (let at = 0; at < count; at++) sum += weights[at] = Math.exp(scores[at] - largest);
  for (let at = 0; at < count; at++) weights[at] /= sum;
  return weights;
}

/** All heads of a layer: what they add to each position, and their patterns. */
function attend(layer, stream) {
  const added = stream.map((x) => new Float64Array(x.length));
  const patterns = layer.heads.map((head) => {
    const keys = stream.map((x) => timesMatrix(x, head.key));
    const values = stream.map((x) => timesMatrix(x, head.value));
    return stream.map((x, position) => {
      const query = timesMatrix(x, head.query);
      const scores = new Float64Array(stream.length);
      for (let key = 0; key <= position; key++) {
        let score = 0;
        for (let at = 0; at < query.length; at++) score += query[at] * keys[key][at];
        scores[key] = score;
      }
      const shares = softmax(scores, position + 1);
      const read = new Float64Array(head.output.rows);
      for (let key = 0; key <= position; key++) {
        for (let at = 0; at < read.length; at++) read[at] += shares[key] * values[key][at];
      }
      addTo(added[position], timesMatrix(read, head.output));
      return shares;
    });
  });
  return { added, patterns };
}

/** The stream, the patterns ([layer][head][query][key]) and the output of a prompt of token ids. */
function forward(model, ids) {
  const stream = ids.map((token, position) => {
    const x = new Float64Array(model.token.columns);
    addRow(x, model.token, token);
    addRow(x, model.position, position);
    return x;
  });
  const patterns = [];
  for (const layer of model.layers) {
    const attention = attend(layer, stream);
    patterns.push(attention.patterns);
    stream.forEach((x, position) => {
      addTo(x, attention.added[position]);
      const hidden = timesMatrix(x, layer.wIn);
      for (let unit = 0; unit < hidden.length; unit++) hidden[unit] = Math.max(0, hidden[unit] + layer.biasIn[unit]);
      const written = timesMatrix(hidden, layer.wOut);
      addTo(written, layer.biasOut);
      addTo(x, written);
    });
  }
  return { stream, patterns, output: stream.map((x) => timesMatrix(x, model.unembedding)) };
}

/** The id that a task answers, or null. */
function taskAnswer(task, inputs) {
  if (task.kind === "table") {
    const found = task.index.get(task.reads.map((place) => inputs[place]).join(" "));
    return found === undefined ? null : found;
  }
  let sum = 0;
  for (const place of task.reads) {
    const value = task.values.get(inputs[place]);
    if (value === undefined) return null;
    sum += value;
  }
  const found = task.index.get(String(sum));
  return found === undefined ? null : found;
}

/** Tasks with their tables indexed. */
function indexTasks(data) {
  return data.tasks.map((task) => ({
    ...task,
    index: new Map(task.rows.map(([key, answer]) => [[].concat(key).join(" "), answer])),
    values: new Map(task.values || []),
  }));
}

/** The exact shares c_k / m' and the target q, as a Map from id to number. */
function oracle(tasks, examples, query) {
  const shares = tasks.map((task) => {
    const counted = examples.filter((example) => taskAnswer(task, example.inputs) === example.answer).length;
    return examples.length ? counted / examples.length : 0;
  });
  const target = new Map();
  tasks.forEach((task, index) => {
    const answer = taskAnswer(task, query);
    if (answer !== null && shares[index] > 0) target.set(answer, (target.get(answer) || 0) + shares[index]);
  });
  return { shares, target };
}

/** BOS, then inputs, EQ and answer of each example, then the query and EQ. */
function promptIds(data, examples, query) {
  const ids = [data.layout.bos];
  for (const example of examples) ids.push(...example.inputs, data.layout.eq, example.answer);
  ids.push(...query, data.layout.eq);
  return ids;
}

/** What stands at a position: its role and its example, from 0. */
function roleOf(data, position) {
  if (position === 0) return { role: "bos", example: 0 };
  const length = data.layout.inputs + 2;
  const place = (position - 1) % length;
  const role = place < data.layout.inputs ? "x" : place === data.layout.inputs ? "eq" : "y";
  return { role, example: Math.floor((position - 1) / length) };
}

function eqPosition(data, example) {
  return (example + 1) * (data.layout.inputs + 2) - 1;
}

/** The largest difference to the answers that were computed when the page was made. */
function selfCheck(model, data) {
  let worst = 0;
  for (const check of data.checks) {
    const result = forward(model, check.ids);
    const outputs = decodeArray(check.output, Float64Array);
    const evidence = decodeArray(check.evidence, Float64Array);
    const [start, stop] = data.evidence;
    check.ids.forEach((_, position) => {
      result.output[position].forEach((value, at) => {
        worst = Math.max(worst, Math.abs(value - outputs[position * data.alphabet.length + at]));
      });
      for (let at = start; at < stop; at++) {
        const found = result.stream[position][at];
        worst = Math.max(worst, Math.abs(found - evidence[position * (stop - start) + at - start]));
      }
    });
  }
  return worst;
}

if (typeof module !== "undefined") {
  module.exports = { decodeModel, forward, indexTasks, oracle, promptIds, selfCheck, eqPosition, roleOf };
}
