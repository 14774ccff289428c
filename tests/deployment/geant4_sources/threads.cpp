// Several threads with a model each and the weights of one: the answers of a single thread. Usage: threads MODEL
#include <cstdio>
#include <thread>

#include "double.hpp"

#include "caloforge/geant4.hpp"

using namespace caloforge::geant4;

namespace {

constexpr int kParticles = 600, kThreads = 4;

// Answers to every `step`-th particle from `first` on, into their places.
void answer(std::shared_ptr<const caloforge::Model> model, int first, int step, std::vector<Answer>& out) {
    Settings settings;
    settings.seed = 3, settings.spots_per_voxel = 2;
    int now = 0;
    FastSimulation simulation("photons", model, [&](const Answer& a, const G4FastTrack&) { out[size_t(now)] = a; }, settings);
    for (now = first; now < kParticles; now += step) {
        geant4_double::Particle particle;
        particle.energy = 2000 + 150 * now, particle.event = now, particle.track = 7;
        geant4_double::passed(simulation, particle);
    }
}

bool equal(const Answer& a, const Answer& b) {
    bool same = a.number == b.number && a.deposited == b.deposited && a.hits.size() == b.hits.size();
    for (size_t k = 0; same && k < a.hits.size(); ++k) same = a.hits[k].energy == b.hits[k].energy && a.hits[k].position == b.hits[k].position;
    return same;
}

}  // namespace

int main(int, char** arguments) {
    const auto model = std::make_shared<const caloforge::Model>(arguments[1]);
    std::vector<Answer> alone(kParticles), together(kParticles);
    answer(model, 0, 1, alone);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) threads.emplace_back([&, t] { answer(model, t, kThreads, together); });
    for (std::thread& thread : threads) thread.join();
    int answered = 0, differ = 0;
    for (size_t k = 0; k < kParticles; ++k) answered += !together[k].hits.empty(), differ += !equal(alone[k], together[k]);
    std::printf("%d answers, %d differ\n", answered, differ);
    return differ != 0;
}
