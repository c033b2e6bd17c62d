#include "cpu.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "dots.hpp"
#include "sweep.hpp"

namespace rerank {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
bool present(Isa isa) {
    switch (isa) {
        case Isa::baseline: return true;
        case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        case Isa::avx512: return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && present(Isa::avx2);
        case Isa::avx512vnni: return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") && present(Isa::avx512);
    }
    return false;
}
#else
bool present(Isa isa) { return isa == Isa::baseline; }  // on aarch64 the baseline already is NEON
#endif

}  // namespace

std::vector<Isa> usable_isas() {
    std::vector<Isa> out;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512vnni})
        if (present(isa)) out.push_back(isa);
    return out;
}

Isa best_isa() {
    static const Isa best = usable_isas().back();
    return best;
}

Kernels kernels(Isa isa) {
    if (!present(isa)) throw std::invalid_argument("instruction set " + std::string(isa_name(isa)) + " is not available on this processor");
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx2: return {dots_avx2, two_dots_avx2, sweep_avx2, inner_avx2, maxsim_avx2(), residual_avx2(), {}, trees_avx2()};
        case Isa::avx512: return {dots_avx512, two_dots_avx512, sweep_avx2, inner_avx512, maxsim_avx512(), residual_avx512(), {}, trees_avx512()};
        case Isa::avx512vnni:
            return {dots_avx512, two_dots_avx512, sweep_avx2, inner_avx512, maxsim_avx512(), residual_avx512(), dot8_avx512vnni(), trees_avx512()};
#endif
        default: return {dots_baseline, two_dots_baseline, sweep_baseline, inner_baseline, maxsim_baseline(), residual_baseline(), {}, trees_baseline()};
    }
}

std::string_view isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512vnni: return "avx512vnni";
        default: return "baseline";
    }
}

}  // namespace rerank
