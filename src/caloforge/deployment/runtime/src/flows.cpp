#include "flows.hpp"

#include <algorithm>
#include <new>

#include "single_inverse.hpp"
#include "tile_inverse.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace caloforge::runtime {

Packed::Packed(size_t count) {
    constexpr size_t huge = size_t(1) << 21;
    const size_t bytes = std::max<size_t>(count * sizeof(float), 64), page = bytes < huge / 2 ? 4096 : huge;
    data_ = static_cast<float*>(std::aligned_alloc(page, (bytes + page - 1) / page * page));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (page == huge) ::madvise(data_, (bytes + page - 1) / page * page, MADV_HUGEPAGE);
#endif
}

void need_sizes(const std::vector<int64_t>& plan, size_t count) {
    need(plan.size() >= count, "a plan is too short");
    for (size_t k = 0; k < count; ++k) need(plan[k] >= 0 && plan[k] <= kLargest, "a size in a plan is out of range");
}

void need_places(const int64_t* from, int64_t count, int64_t limit) {
    need(std::all_of(from, from + count, [=](int64_t place) { return place >= 0 && place < limit; }),
         "a plan names a value that is not there");
}

std::unique_ptr<Flow> open_flow(const Tensors& tensors, const std::string& name, const Json& settings) {
    const std::string& kind = settings["kind"].text();
    const std::vector<double> spline = settings["spline"].numbers(4);
    if (kind == "autoregressive") return std::make_unique<AutoregressiveSampler>(tensors, name, spline);
    need(kind == "one-pass", "a flow is of an unknown kind");
    return std::make_unique<OnePassSampler>(tensors, name, spline);
}

// ---- autoregressive -------------------------------------------------------------------------------------------------

AutoregressiveSampler::AutoregressiveSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline)
    : tensors_(tensors), name_(name), plan_(tensors.wholes(name + ".plan")) {
    need_sizes(plan_, 7);
    const int64_t features = plan_[0], hidden = plan_[2], layers = plan_[3], blocks = plan_[4], bins = plan_[5];
    need(features >= 1 && hidden >= 1 && layers >= 1 && layers <= 10000 && blocks >= 1 && bins >= 2 && bins <= kMaxBins,
         "the plan of '" + name + "' is out of range");
    need(int64_t(plan_.size()) == 7 + blocks * (2 * features + 1) + features, "the plan of '" + name + "' has another length");
    const int64_t* rest = plan_.data() + 7;
    for (int64_t b = 0; b < blocks; ++b, rest += 2 * features + 1) {
        need_places(rest, features + 1, hidden + 1);
        need(std::is_sorted(rest, rest + features + 1), "the units of '" + name + "' are not in order");
        need_places(rest + features + 1, features, features);
    }
    need_places(rest, features, features);
    spline_ = {int(bins), spline[0], spline[1], spline[2], spline[3]};
    single_ = laid_out(Layout::single);
}

AutoregressiveSampler::Laid AutoregressiveSampler::laid_out(Layout layout) const {
    const int64_t features = plan_[0], context = plan_[1], hidden = plan_[2], layers = plan_[3], bins = plan_[5];
    Weights weights(tensors_, name_);
    for (int64_t b = 0; b < plan_[4]; ++b) {
        weights.take(hidden, features);
        for (int64_t l = 1; l < layers; ++l) weights.take(hidden, hidden);
        if (context) weights.take(hidden, context);
        weights.take(features * (3 * bins - 1), hidden);
    }
    Laid made;
    made.numbers = Packed(PackedFlow<float>(plan_.data(), spline_, layout, nullptr).numbers);
    made.flow = std::make_unique<PackedFlow<float>>(plan_.data(), spline_, layout, made.numbers.data());
    pack_flow(*made.flow, weights.data(), made.numbers.data());
    tensors_.forget();
    return made;
}

void AutoregressiveSampler::run(int64_t count, const float* z, const float* context, float* x) const {
    const int D = features(), C = this->context();
    if (count <= 2 && plan_[6] == 0) {
        SingleInverse<float> single(*single_.flow);
        for (int64_t r = 0; r < count; ++r) single.run(z + r * D, context + r * C, x + r * D);
        return;
    }
    std::call_once(asked_, [this] { tile_ = laid_out(Layout::tile); });
    constexpr int64_t most = 16 * kLanes<float>;
    std::vector<float> logdet(most);
    const int64_t vectors = (std::min(count, most) + kLanes<float> - 1) / kLanes<float>;
    TileInverse<float> tile(*tile_.flow, int(vectors));
    for (int64_t first = 0; first < count; first += most) {
        const int64_t some = std::min(most, count - first);
        tile.run(int(some), z + first * D, context + first * C, x + first * D, logdet.data());
    }
}

// ---- point clouds ---------------------------------------------------------------------------------------------------

ShowerFlowSampler::ShowerFlowSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline)
    : plan_(tensors.wholes(name + ".plan")) {
    need_sizes(plan_, 4);
    const int64_t features = plan_[0], context = plan_[1], steps = plan_[2], bins = plan_[3];
    need(features >= 2 && context >= 1 && steps >= 1 && bins >= 2 && bins <= kMaxBins, "the plan of '" + name + "' is out of range");
    need(int64_t(plan_.size()) == 4 + steps * (2 + features) + features, "the plan of '" + name + "' has another length");
    const LinearRationalShape shape{int(bins), spline[0], spline[1], spline[2], spline[3], spline[4]};
    Weights weights(tensors, name);
    const int64_t* rest = plan_.data() + 4;
    for (int64_t s = 0; s < steps; ++s, rest += 2 + features) {
        const int64_t hidden = rest[1], kept = features / 2;
        need((rest[0] == 0 || rest[0] == 1) && hidden >= 1 && hidden <= kLargest, "the plan of '" + name + "' is out of range");
        need_places(rest + 2, features, features);
        weights.take(hidden, context + (rest[0] ? 0 : kept));
        weights.take(hidden, hidden);
        weights.take(rest[0] ? features * shape.parameters() : 2 * (features - kept), hidden);
    }
    need_places(rest, features, features);
    // One shower at a time: hosts ask for few, and a single one reads no weights of silent units.
    numbers_ = Packed(PackedShowerFlow<float>(plan_.data(), shape, true, nullptr).numbers);
    flow_ = std::make_unique<PackedShowerFlow<float>>(plan_.data(), shape, true, numbers_.data());
    pack_shower_flow(*flow_, weights.data());
    tensors.forget();
}

void ShowerFlowSampler::run(int64_t count, const float* z, const float* context, float* x) const {
    SingleShowerFlow<float> single(*flow_);
    for (int64_t r = 0; r < count; ++r) single.run(z + r * features(), context + r * this->context(), x + r * features());
}

PointSampler::PointSampler(const Tensors& tensors, const std::string& name) : plan_(tensors.wholes(name + ".plan")) {
    need_sizes(plan_, 4);
    const int64_t features = plan_[0], time = plan_[1], context = plan_[2], layers = plan_[3];
    need(features == 4 && time >= 2 && time % 2 == 0 && context >= 1 && layers >= 1 && int64_t(plan_.size()) == 4 + layers,
         "the plan of '" + name + "' is out of range");
    need_sizes(plan_, plan_.size());
    int64_t modulations = 0;
    for (int64_t l = 0; l < layers; ++l) {
        need(plan_[size_t(4 + l)] >= 1, "a layer of '" + name + "' is empty");
        modulations += 2 * plan_[size_t(4 + l)];
    }
    need(plan_.back() == 4, "'" + name + "' makes no points");
    Weights weights(tensors, name);
    weights.take(time / 2);
    weights.take(time, time);
    weights.take(modulations, time + context);
    int64_t inputs = features;
    for (int64_t l = 0; l < layers; ++l) {
        weights.take(plan_[size_t(4 + l)], inputs);
        inputs = plan_[size_t(4 + l)];
    }
    numbers_ = Packed(PackedPointNetwork<float>(plan_.data(), nullptr).numbers);
    network_ = std::make_unique<PackedPointNetwork<float>>(plan_.data(), numbers_.data());
    pack_point_network(*network_, weights.data());
    tensors.forget();
}

}  // namespace caloforge::runtime
