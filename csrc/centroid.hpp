// Scores from centroids alone, the candidate stage of PLAID: every token stands for its centroid.
//
//   score(q, d) = sum over the query tokens i of weight_i * max over the tokens j of d of table[centroid of j][i]
#pragma once

#include <cstddef>
#include <span>

#include "residual.hpp"

namespace rerank {

struct CentroidCall {
    const float* table;  // [n_centroids][stride], the products of the centroids with the query, finite
    std::size_t stride;
    std::span<const float> weights;  // of the first columns of the table; the others do not count
    const void* centroid_ids;
    bool wide_ids;  // int32, else uint16
    std::size_t n_centroids;
    std::span<const TokenRange> docs;
    int threads;
    Deadline deadline{};  // scores of documents that it left are NaN
};

// Scores of docs, -inf for one without tokens; sums are double, rounded once. The same for any number of threads. Returns the first document
// whose score is beyond float32, or how many there are. Throws std::out_of_range for a centroid id that is not below n_centroids.
std::size_t centroid_maxsim(const CentroidCall& call, std::span<float> scores);

}  // namespace rerank
