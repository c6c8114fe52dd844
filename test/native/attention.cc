// Rows of attention and its gradient: SD's head sizes, one token to several blocks of queries and keys, causal for the text encoder.
#include "op_rows.h"
#include "reference.h"

namespace lorafuse::test {
namespace {

void forward_row(const Shape& q, const Shape& k, int heads, bool causal = false) { op_row({Attention{heads, causal}, {{q}, {k}, {k}}}); }

void attention_gradient_row(const Shape& q, const Shape& k, int heads, bool causal = false) {
  Row row{AttentionGrad{heads, causal}, {{q}, {k}, {k}, {q}, {Shape{q[0], heads, q.rows() / q[0]}}, {q}}};
  row.derive = [=](std::vector<Array<double>>& in) {
    std::fill(in[3].data.begin(), in[3].data.end(), 0);
    compute<double>(Attention{heads, causal}, {{&in[0], &in[1], &in[2]}, {&in[3], &in[4]}});
  };
  op_row(std::move(row));
}

// With one key, dq and dk are 0: what is left of them is rounding, and nothing to measure against.
void rows(const Shape& q, const Shape& k, int heads, bool causal = false) {
  forward_row(q, k, heads, causal);
  if (k.rows() / k[0] > 1) attention_gradient_row(q, k, heads, causal);
}
void causal_rows(const Shape& x, int heads) { rows(x, x, heads, true); }

}  // namespace

SUITE(attention) {
  for (int64_t head_size : {1, 5, 8, 40, 48, 64, 72, 80, 104, 160, 512}) {
    rows({1, 20, head_size}, {1, 77, head_size}, 1);
    rows({2, 6, 2 * head_size}, {2, 7, 2 * head_size}, 2);
  }
  for (int64_t queries : {1, 77, 130, 300})
    for (int64_t keys : {1, 77, 130, 300}) rows({1, queries, 16}, {1, keys, 16}, 2);
  rows({1, 130, 10}, {1, 300, 10}, 2);
  rows({2, 77, 96}, {2, 77, 96}, 1);
  rows({1, 600, 768}, {1, 20, 768}, 8);  // blocks for every multiprocessor
  rows({1, 530, 80}, {1, 9, 80}, 2);     // many queries, few keys
  for (int64_t tokens : {1, 5, 77, 130, 300}) causal_rows({2, tokens, 24}, 3);
  causal_rows({2, 77, 15}, 3);
  causal_rows({1, 77, 768}, 12);  // CLIP
  for (int64_t head_size : {1, 40, 64, 72, 160, 512}) causal_rows({1, 70, head_size}, 1);
  for (int64_t tokens : {31, 33, 63, 64, 65, 125, 127, 128, 129, 255, 257}) causal_rows({1, tokens, 8}, 1);
  causal_rows({1, 530, 16}, 2);              // the queries are split
  rows({1, 20, 16}, {1, 77, 16}, 2, true);   // keys that no query sees
  rows({1, 140, 16}, {1, 77, 16}, 2, true);  // queries that see all keys
  rows({1, 8, 8, 320}, {1, 77, 320}, 8);     // cross attention over an image
  rows({2, 8, 8, 80}, {2, 8, 8, 80}, 2);     // self attention
  for (int64_t tokens : {31, 32, 33, 63, 64, 65, 125, 126, 127, 128, 129, 252, 255, 256, 257}) rows({1, tokens, 8}, {1, tokens, 8}, 1);
}

SUITE(attention_of_large_scores) {
  // Scores beyond 88: the shift by the largest is what keeps exp finite.
  op_row({Attention{2}, {scaled({1, 40, 80}, {6}), scaled({1, 300, 80}, {6}), {Shape{1, 300, 80}}}});
}

}  // namespace lorafuse::test
