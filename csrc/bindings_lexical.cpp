// Segments, their strings, merging and BM25 search for Python. Objects keep the arrays alive that they look into; those may be mapped files.
#include "bindings.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bm25.hpp"
#include "segments.hpp"
#include "strings.hpp"

namespace rerank {

namespace {

using Bytes = std::span<const std::uint8_t>;

// The records of a section of bytes.
template <class T>
std::span<const T> records(const py::array& array, const char* name) {
    const Bytes bytes = view<std::uint8_t>(array, name);
    if (bytes.size() % sizeof(T) != 0 || reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(T) != 0)
        throw py::value_error(std::string(name) + ": " + std::to_string(bytes.size()) + " bytes at an odd place are not whole records");
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

template <class T>
py::array to_bytes(std::vector<T>&& values) {
    auto* owner = new std::vector<T>(std::move(values));
    py::capsule release(owner, [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(owner->size() * sizeof(T)), reinterpret_cast<const std::uint8_t*>(owner->data()),
                                     release);
}

Coding coding_of(const py::dict& meta) {
    const Coding coding{meta["k1"].cast<double>(), meta["b"].cast<double>(), meta["mean"].cast<double>()};
    if (!((coding.exact() || coding.k1 >= 1e-9) && coding.k1 <= 1e9 && coding.b >= 0 && coding.b <= 1 && coding.mean >= 1e-10 && coding.mean <= 1e12))
        throw py::value_error("the coding's k1, b or mean length is out of range");
    return coding;
}

// The arrays of one segment by name, with the few numbers that describe them.
struct Segment {
    py::dict arrays;
    SegmentView v;
    ForwardView forward;
    std::uint32_t shortest, longest;

    Segment(const py::dict& sections, const py::dict& meta) : arrays(sections) {
        v.terms = records<TermEntry>(get("terms"), "terms");
        v.blocks = records<Block>(get("blocks"), "blocks");
        v.payload = view<std::uint8_t>(get("payload"), "payload");
        v.lengths = view<std::uint32_t>(get("lengths"), "lengths");
        v.dense_terms = view<std::uint32_t>(get("dense_terms"), "dense_terms");
        v.dense = view<std::uint8_t>(get("dense"), "dense");
        v.coding = coding_of(meta);
        v.codes = meta["codes"].cast<bool>();
        shortest = meta["shortest"].cast<std::uint32_t>();
        longest = meta["longest"].cast<std::uint32_t>();
        if (shortest < 1 || shortest > longest) throw py::value_error("the shortest and the longest document do not fit together");
        if (v.lengths.size() > kMaxRows || v.terms.size() > 0x7fffffff) throw py::value_error("a segment holds at most 2^30 documents");
        if (v.dense.size() != v.dense_terms.size() * v.lengths.size()) throw py::value_error("the rows of codes do not fit their terms");
        if (sections.contains("forward_offsets")) {
            forward.offsets = view<std::int64_t>(get("forward_offsets"), "forward_offsets");
            forward.bytes = view<std::uint8_t>(get("forward"), "forward");
            if (forward.offsets.size() != v.lengths.size() + 1) throw py::value_error("the forward lists do not fit the documents");
        }
    }

    py::array get(const char* name) const { return arrays[name].cast<py::array>(); }
    void check_bitmap(Bytes dead) const {
        if (!dead.empty() && dead.size() != (v.lengths.size() + 7) / 8) throw py::value_error("a bitmap does not fit the segment");
    }
};

py::dict to_dict(SegmentWriter& writer, const std::vector<std::uint32_t>& lengths, const Coding& coding, bool codes) {
    py::dict sections, meta;
    const auto [low, high] = std::minmax_element(lengths.begin(), lengths.end());
    meta["n_postings"] = writer.n_postings;
    meta["shortest"] = lengths.empty() ? 1 : std::max<std::uint32_t>(*low, 1);
    meta["longest"] = lengths.empty() ? 1 : std::max<std::uint32_t>(*high, 1);
    meta["k1"] = coding.k1;
    meta["b"] = coding.b;
    meta["mean"] = coding.mean;
    meta["codes"] = codes;
    sections["terms"] = to_bytes(std::move(writer.terms));
    sections["blocks"] = to_bytes(std::move(writer.blocks));
    sections["payload"] = to_numpy(std::move(writer.payload));
    sections["lengths"] = to_numpy(std::vector<std::uint32_t>(lengths));
    sections["dense_terms"] = to_numpy(std::move(writer.dense_terms));
    sections["dense"] = to_numpy(std::move(writer.dense));
    py::dict out;
    out["sections"] = sections;
    out["meta"] = meta;
    return out;
}

Coding coding_for(const std::vector<std::uint32_t>& lengths, double k1, double b) {
    double sum = 0;
    for (const std::uint32_t length : lengths) sum += length;
    return {k1, b, sum > 0 ? sum / static_cast<double>(lengths.size()) : 1.0};
}

void add_forward(py::dict& out, Forward&& forward) {
    py::dict sections = out["sections"];
    sections["forward_offsets"] = to_numpy(std::move(forward.offsets));
    sections["forward"] = to_numpy(std::move(forward.bytes));
}

py::dict py_write_segment(const py::array& tokens, const py::array& offsets, std::int64_t n_terms, double k1, double b, bool codes, bool forward,
                          const py::array& counts) {
    const auto t = view<std::int32_t>(tokens, "tokens");
    const auto o = view<std::int64_t>(offsets, "offsets");
    check_offsets(o, t.size(), "offsets");
    if (n_terms < 0 || n_terms > 0x7fffffff) throw py::value_error("n_terms: " + std::to_string(n_terms) + " is out of range");
    check_range(t, n_terms, "tokens");
    if (o.size() - 1 > kMaxRows) throw py::value_error("a segment holds at most 2^30 documents");
    const auto many = view<std::uint32_t>(counts, "counts");
    if (!many.empty() && (many.size() != t.size() || forward)) throw py::value_error("counts: expected one per token, and no forward lists");
    std::vector<std::uint32_t> lengths;
    for (std::size_t i = 1; i < o.size(); ++i) {
        std::uint64_t length = static_cast<std::uint64_t>(o[i] - o[i - 1]);
        if (!many.empty()) length = std::accumulate(many.begin() + o[i - 1], many.begin() + o[i], std::uint64_t{0});
        if (length > 0xffffffffu) throw py::value_error("counts: a document's add up to 2^32 and more");
        lengths.push_back(static_cast<std::uint32_t>(length));
    }
    if (std::find(many.begin(), many.end(), 0u) != many.end()) throw py::value_error("counts: one is 0");
    const Coding coding = coding_for(lengths, k1, b);
    SegmentWriter writer(lengths, coding, codes);
    Forward lists;
    {
        py::gil_scoped_release release;
        write_documents(writer, t, o, static_cast<std::size_t>(n_terms), many);
        writer.finish();
        if (forward) lists = forward_of(t, o);
    }
    py::dict out = to_dict(writer, lengths, coding, codes);
    if (forward) add_forward(out, std::move(lists));
    return out;
}

// Compressed sparse rows: (term_offsets [n_terms + 1], rows, counts).
py::tuple py_decode(const Segment& segment) {
    std::vector<std::int64_t> offsets{0};
    std::vector<std::uint32_t> rows, tfs;
    {
        py::gil_scoped_release release;
        for (std::size_t t = 0; t < segment.v.terms.size(); ++t) {
            decode_list(segment.v, static_cast<std::uint32_t>(t), rows, tfs);
            offsets.push_back(static_cast<std::int64_t>(rows.size()));
        }
    }
    return py::make_tuple(to_numpy(std::move(offsets)), to_numpy(std::move(rows)), to_numpy(std::move(tfs)));
}

// How often a term stands in a document.
std::uint32_t py_frequency(const Segment& segment, std::uint32_t term, std::uint32_t row) {
    if (term >= segment.v.terms.size()) throw py::value_error("term: outside the segment");
    std::vector<std::uint32_t> rows, tfs;
    decode_list(segment.v, term, rows, tfs);
    const auto at = static_cast<std::size_t>(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
    return at < rows.size() && rows[at] == row ? tfs[at] : 0;
}

py::tuple py_forward(const Segment& segment, const py::array& rows) {
    const auto r = view<std::int64_t>(rows, "rows");
    check_range(r, static_cast<std::int64_t>(segment.v.lengths.size()), "rows");
    std::vector<std::int64_t> offsets{0};
    std::vector<std::uint32_t> terms, tfs;
    for (const std::int64_t row : r) {
        segment.forward.read(static_cast<std::size_t>(row), segment.v.terms.size(), terms, tfs);
        offsets.push_back(static_cast<std::int64_t>(terms.size()));
    }
    return py::make_tuple(to_numpy(std::move(offsets)), to_numpy(std::move(terms)), to_numpy(std::move(tfs)));
}

struct Table {
    py::array bytes, offsets, order;
    Strings strings;

    Table(const py::array& b, const py::array& o, const py::array& r)
        : bytes(b), offsets(o), order(r), strings(chars(b), view<std::int64_t>(o, "offsets"), view<std::uint32_t>(r, "order")) {
        const auto n = view<std::int64_t>(o, "offsets").size();
        if (n == 0 || (order.size() != 0 && static_cast<std::size_t>(order.size()) + 1 != n)) throw py::value_error("a table's order does not fit its offsets");
    }
    static std::span<const char> chars(const py::array& b) {
        const Bytes raw = view<std::uint8_t>(b, "bytes");
        return {reinterpret_cast<const char*>(raw.data()), raw.size()};
    }
    std::int64_t find(py::handle text) const {
        Py_ssize_t size = 0;
        if (const char* utf8 = PyUnicode_Check(text.ptr()) ? PyUnicode_AsUTF8AndSize(text.ptr(), &size) : nullptr)
            return strings.find({utf8, static_cast<std::size_t>(size)});
        PyErr_Clear();
        if (!PyUnicode_Check(text.ptr())) throw py::type_error("expected strings");
        const auto encoded = py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass"));
        if (!encoded) throw py::error_already_set();
        return strings.find(std::string_view(encoded));
    }
    py::array find_all(const py::list& texts) const {
        std::vector<std::int32_t> found;
        for (const py::handle text : texts) found.push_back(static_cast<std::int32_t>(find(text)));
        return to_numpy(std::move(found));
    }
    py::str get(std::int64_t i) const {
        if (i < 0 || static_cast<std::size_t>(i) >= strings.size()) throw py::index_error("the table has no such string");
        const std::string_view text = strings[static_cast<std::size_t>(i)];
        PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogatepass");
        if (decoded == nullptr) throw py::error_already_set();
        return py::reinterpret_steal<py::str>(decoded);
    }
};

py::tuple py_merge_strings(const std::vector<const Table*>& tables, const std::vector<py::array>& used) {
    std::vector<Strings> strings;
    std::vector<std::vector<std::uint8_t>> marks;
    for (std::size_t i = 0; i < tables.size(); ++i) {
        strings.push_back(tables[i]->strings);
        const Bytes mark = view<std::uint8_t>(used.at(i), "used");
        if (!mark.empty() && mark.size() != strings.back().size()) throw py::value_error("used: expected one entry per string");
        marks.emplace_back(mark.begin(), mark.end());
    }
    MergedStrings merged;
    {
        py::gil_scoped_release release;
        merged = merge_strings(strings, marks);
    }
    py::list places;
    for (auto& place : merged.places) places.append(to_numpy(std::move(place)));
    return py::make_tuple(to_bytes(std::move(merged.bytes)), to_numpy(std::move(merged.offsets)), places);
}

struct PyMerge {
    std::vector<py::object> keep;
    std::vector<std::uint32_t> lengths;
    Coding coding;
    bool codes, with_forward;
    std::unique_ptr<Merge> merge;

    PyMerge(const std::vector<py::tuple>& inputs, std::int64_t n_terms, double k1, double b, bool with_codes, bool forward)
        : codes(with_codes), with_forward(forward) {
        std::vector<MergeInput> parts;
        for (const py::tuple& input : inputs) {  // (segment, dead bitmap, places)
            const auto& segment = input[0].cast<const Segment&>();
            const auto dead = view<std::uint8_t>(input[1].cast<py::array>(), "dead");
            const auto places = view<std::uint32_t>(input[2].cast<py::array>(), "places");
            segment.check_bitmap(dead);
            if (places.size() != segment.v.terms.size()) throw py::value_error("places: expected one entry per term");
            std::uint64_t next = 0;
            for (const std::uint32_t place : places) {
                if (place == kUnused) continue;
                if (place < next || place >= static_cast<std::uint64_t>(n_terms)) throw py::value_error("places: must rise and stay below n_terms");
                next = std::uint64_t{place} + 1;
            }
            if (forward && segment.forward.offsets.empty()) throw py::value_error("a segment without forward lists");
            parts.push_back({segment.v, dead, places, segment.forward});
            keep.push_back(input);
        }
        lengths = live_lengths(parts);
        if (lengths.size() > kMaxRows) throw py::value_error("a segment holds at most 2^30 documents");
        coding = coding_for(lengths, k1, b);
        merge = std::make_unique<Merge>(std::move(parts), lengths, static_cast<std::size_t>(n_terms), coding, codes);
    }

    // The next piece of payload, about `bytes` long; the last is shorter, and after it comes None.
    py::object step(std::size_t bytes) {
        if (!merge) return py::none();
        bool more;
        {
            py::gil_scoped_release release;
            more = merge->step(bytes);
            if (!more) merge->result().finish();
        }
        py::object piece = to_numpy(merge->result().take_payload());
        if (!more) done = std::move(merge);
        return piece;
    }
    py::dict finish() {
        if (!done) throw py::value_error("merge: step until there is no more");
        py::dict out = to_dict(done->result(), lengths, coding, codes);
        if (with_forward) {
            Forward lists;
            {
                py::gil_scoped_release release;
                lists = done->forward();
            }
            add_forward(out, std::move(lists));
        }
        return out;
    }
    std::unique_ptr<Merge> done;
};

struct PySearcher {
    py::list keep;
    std::unique_ptr<Searcher> searcher;

    PySearcher(const py::list& sources, const std::string& variant, double k1, double b, double delta, std::uint64_t n_docs, std::uint64_t n_tokens)
        : keep(sources) {
        std::vector<Source> parts;
        std::int64_t base = 0;
        for (const py::handle item : sources) {  // (segment, dead bitmap, dead frequencies)
            const auto source = item.cast<py::tuple>();
            const auto& segment = source[0].cast<const Segment&>();
            Source part{segment.v, base, segment.shortest, segment.longest, view<std::uint8_t>(source[1].cast<py::array>(), "dead"),
                        view<std::int32_t>(source[2].cast<py::array>(), "dead_df")};
            segment.check_bitmap(part.dead);
            if (!part.dead_df.empty() && part.dead_df.size() != segment.v.terms.size()) throw py::value_error("dead_df: expected one entry per term");
            base += static_cast<std::int64_t>(segment.v.lengths.size());
            parts.push_back(part);
        }
        const Bm25Parameters parameters{named<Variant>(variant,
                                                       {{"lucene", Variant::lucene},
                                                        {"robertson", Variant::robertson},
                                                        {"atire", Variant::atire},
                                                        {"bm25l", Variant::bm25l},
                                                        {"bm25+", Variant::bm25plus},
                                                        {"impact", Variant::impact}},
                                                       "variant"),
                                        k1, b, delta};
        searcher = std::make_unique<Searcher>(std::move(parts), parameters, n_docs, n_tokens);
    }

    void check_terms(std::span<const std::int32_t> terms, std::size_t total) const {
        if (terms.size() != total * searcher->n_sources()) throw py::value_error("terms: expected one row of ids per segment");
        for (std::size_t s = 0; s < searcher->n_sources(); ++s)
            for (const std::int32_t term : terms.subspan(s * total, total))
                if (term < -1 || term >= static_cast<std::int64_t>(searcher->n_terms(s)))
                    throw py::value_error("terms: " + std::to_string(term) + " is outside [-1, " + std::to_string(searcher->n_terms(s)) + ")");
    }

    py::tuple search(const py::array& terms, const py::array& weights, const py::array& required, const py::array& offsets,
                     const py::array& filter, std::size_t k, int threads, double seconds, const py::array& df, const py::array& floors) const {
        Searcher::Batch batch{view<std::int32_t>(terms, "terms"), view<float>(weights, "weights"), view<std::uint8_t>(required, "required"),
                              view<std::int64_t>(offsets, "query_offsets"), view<std::uint8_t>(filter, "filter"), Deadline(seconds),
                              view<std::int64_t>(df, "df"), view<float>(floors, "floors")};
        std::vector<float> ones;  // what an empty array of weights stands for
        if (batch.weights.empty() && !batch.query_offsets.empty() && batch.query_offsets.back() > 0 &&
            static_cast<std::uint64_t>(batch.query_offsets.back()) <= batch.terms.size()) {
            ones.assign(static_cast<std::size_t>(batch.query_offsets.back()), 1.0f);
            batch.weights = ones;
        }
        check_offsets(batch.query_offsets, batch.weights.size(), "query_offsets");
        check_terms(batch.terms, batch.weights.size());
        if (!batch.required.empty() && batch.required.size() != batch.weights.size()) throw py::value_error("required: expected one entry per term");
        if (!batch.filter.empty() && batch.filter.size() != static_cast<std::size_t>((searcher->n_rows() + 7) / 8))
            throw py::value_error("filter: expected one bit per row");
        if (!batch.df.empty() && batch.df.size() != batch.weights.size()) throw py::value_error("df: expected one entry per term");
        if (!batch.floors.empty() && batch.floors.size() != batch.query_offsets.size() - 1) throw py::value_error("floors: expected one entry per query");
        PackedHits hits;
        std::vector<std::int64_t> reached(batch.query_offsets.size() - 1);
        {
            py::gil_scoped_release release;
            hits = searcher->search(batch, k, threads, reached);
        }
        return py::make_tuple(to_numpy(std::move(hits.offsets)), to_numpy(std::move(hits.ids)), to_numpy(std::move(hits.scores)), to_numpy(std::move(reached)));
    }
};

}  // namespace

void bind_lexical(py::module_& m) {
    using namespace py::literals;
    m.def("write_segment", &py_write_segment, "tokens"_a, "offsets"_a, "n_terms"_a, "k1"_a, "b"_a, "codes"_a, "forward"_a,
          "counts"_a = py::array_t<std::uint32_t>());
    py::class_<Segment>(m, "Segment")
        .def(py::init<py::dict, py::dict>(), "sections"_a, "meta"_a)
        .def("decode", &py_decode)
        .def("forward", &py_forward, "rows"_a)
        .def("frequency", &py_frequency, "term"_a, "row"_a)
        .def("dead_frequencies", [](const Segment& s, const py::array& dead) {
            const auto bitmap = view<std::uint8_t>(dead, "dead");
            s.check_bitmap(bitmap);
            py::gil_scoped_release release;
            auto out = dead_frequencies(s.v, bitmap);
            py::gil_scoped_acquire acquire;
            return to_numpy(std::move(out));
        }, "dead"_a);
    py::class_<Table>(m, "Strings")
        .def(py::init<py::array, py::array, py::array>(), "bytes"_a, "offsets"_a, "order"_a)
        .def("__len__", [](const Table& t) { return t.strings.size(); })
        .def("__getitem__", &Table::get)
        .def("find", &Table::find, "text"_a)
        .def("find_all", &Table::find_all, "texts"_a);
    m.def("merge_strings", &py_merge_strings, "tables"_a, "used"_a);
    py::class_<PyMerge>(m, "Merge")
        .def(py::init<std::vector<py::tuple>, std::int64_t, double, double, bool, bool>(), "inputs"_a, "n_terms"_a, "k1"_a, "b"_a, "codes"_a, "forward"_a)
        .def("step", &PyMerge::step, "bytes"_a)
        .def("finish", &PyMerge::finish);
    py::class_<PySearcher>(m, "Searcher")
        .def(py::init<py::list, std::string, double, double, double, std::uint64_t, std::uint64_t>(), "sources"_a, "variant"_a, "k1"_a, "b"_a,
             "delta"_a, "n_docs"_a, "n_tokens"_a)
        .def("search", &PySearcher::search, "terms"_a, "weights"_a, "required"_a, "offsets"_a, "filter"_a, "k"_a, "threads"_a,
             "seconds"_a = kNever, "df"_a = py::array_t<std::int64_t>(), "floors"_a = py::array_t<float>());
}

}  // namespace rerank
