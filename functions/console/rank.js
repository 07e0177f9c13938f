// Computes the hybrid score like search_*: full_text_weight × full_text_score + semantic_weight × semantic_score + rest.
// The module has no side effects. Its results must equal the server's.

/** The three parts of a hit's score. `rest` is the part that a collection adds to the hybrid score (datasets: static score and age). */
export function parts(hit, weights) {
  return {
    full_text: weights.full_text * (hit.full_text_score ?? 0),
    semantic: weights.semantic * (hit.semantic_score ?? 0),
    rest: "hybrid_score" in hit ? hit.score - hit.hybrid_score : 0,
  };
}

export const total = ({ full_text, semantic, rest }) => full_text + semantic + rest;
const score = (hit, weights) => total(parts(hit, weights));

/** The hits in the order of their scores with other weights, best first. Equal scores are ordered by id, as on the server. */
export function rerank(hits, weights) {
  const scores = new Map(hits.map((hit) => [hit, score(hit, weights)]));
  return [...hits].sort((a, b) => scores.get(b) - scores.get(a) || byId(a.id, b.id));
}

function byId(a, b) {
  if (/^\d+$/.test(a) && /^\d+$/.test(b) && a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * Whether the first `shown` hits of `rerank` are certainly those that the server would return.
 *
 * With the requested weights, a row that the answer does not list has at most the score of the last listed row. Both
 * parts of its score are between 0 and 1. To find its highest possible score with the new weights is a fractional
 * knapsack problem. A weight of zero needs a new request: the server then leaves out this ranking and scales the other
 * one differently.
 */
export function isCertain(answer, weights, shown) {
  const { hits, weights: asked, wanted } = answer;
  const switched = (ranking) => (weights[ranking] === 0) !== (asked[ranking] === 0);
  if (switched("full_text") || switched("semantic")) return false;
  if (hits.length < wanted) return true;
  const ranked = rerank(hits, weights);
  const place = ranked[Math.min(shown, ranked.length) - 1];
  return score(place, weights) > mostUnlisted(answer, weights);
}

function mostUnlisted({ hits, weights: asked }, weights) {
  // The part `rest` always has the weight 1, and it can be as high as the whole score of the last row.
  const hasRest = "hybrid_score" in hits[0];
  let left = Math.min(...hits.map((hit) => score(hit, asked)));
  let most = 0;
  const gain = (name) => (asked[name] ? weights[name] / asked[name] : Infinity);
  for (const name of ["full_text", "semantic"].sort((a, b) => gain(b) - gain(a))) {
    if (hasRest && gain(name) < 1) break;
    const share = asked[name] ? Math.min(1, left / asked[name]) : 1;
    most += share * weights[name];
    left -= share * asked[name];
  }
  return most + (hasRest ? left : 0);
}
