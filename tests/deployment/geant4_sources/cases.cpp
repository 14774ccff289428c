// Cases of the Geant4 adapter, against a double of Geant4 and a runtime that does what a case wants. Prints the name of each case
// that held; says what did not, and ends with 1.
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "double.hpp"
#include "fake_runtime.hpp"

#include "caloforge/geant4.hpp"
#include "caloforge/geant4_hits.hpp"

using namespace caloforge::geant4;
using geant4_double::Box;
using geant4_double::Particle;
using geant4_double::passed;
using geant4_double::Step;

namespace {

int wrong = 0;
void check(bool fine, const char* what, int line) {
    if (!fine) {
        std::printf("line %d: %s\n", line, what);
        ++wrong;
    }
}
#define CHECK(x) check((x), #x, __LINE__)

bool near(const G4ThreeVector& a, const G4ThreeVector& b) { return (a - b).mag2() < 1e-18; }

// A model in the double, and what it has answered.
struct Bench {
    G4Region region{"calorimeter"};
    std::vector<Answer> answers;
    std::unique_ptr<FastSimulation> model;

    explicit Bench(Settings settings = {}, fake::State state = fake::of(false, false)) {
        fake::state = state;
        model = std::make_unique<FastSimulation>("photons", &region, std::make_shared<const caloforge::Model>("anywhere"),
                                                 [this](const Answer& a, const G4FastTrack&) { answers.push_back(a); }, settings);
    }
    Step pass(const Particle& p) { return passed(*model, p); }
    // Whether one more particle was counted under this reason, and was tracked on if it is not the first one.
    bool becomes(const Particle& p, Reason reason) {
        const uint64_t before = model->report().of(reason);
        const size_t had = answers.size();
        const Step step = pass(p);
        const bool answered = reason == Reason::answered;
        return step.killed() == answered && (answers.size() == had + 1) == answered && model->report().of(reason) == before + 1;
    }
};

Particle at(double x, double y, double z) {
    Particle p;
    p.position = {x, y, z};
    return p;
}
Particle towards(double x, double y, double z) {
    Particle p;
    const double length = std::sqrt(x * x + y * y + z * z);
    p.direction = {x / length, y / length, z / length};
    return p;
}
Particle of_energy(double energy) {
    Particle p;
    p.energy = energy;
    return p;
}

void species() {
    Bench b;
    Particle p;
    p.pdg = 11;
    CHECK(!b.pass(p).killed());
    p.pdg = 22;
    CHECK(b.becomes(p, Reason::answered));
    CHECK(b.answers.size() == 1);
    CHECK(b.answers[0].particle == 22);
}

void trained_energies() {
    Bench b;
    CHECK(b.becomes(of_energy(1000), Reason::answered));
    CHECK(b.becomes(of_energy(100000), Reason::answered));
    CHECK(b.becomes(of_energy(999.9), Reason::below));
    CHECK(b.becomes(of_energy(100000.1), Reason::above));
    CHECK(b.becomes(of_energy(std::nan("")), Reason::below));
    Settings settings;
    settings.min_energy = 5000, settings.max_energy = 1e9;
    Bench narrow(settings);
    CHECK(narrow.becomes(of_energy(4999), Reason::below));
    CHECK(narrow.becomes(of_energy(5000), Reason::answered));
    CHECK(narrow.becomes(of_energy(2e5), Reason::above));  // the trained range holds in any case
}

void only_at_the_face() {
    Bench b;  // its solid reaches from -240 to 240
    CHECK(b.becomes(at(3, 4, -240), Reason::answered));
    CHECK(b.becomes(at(3, 4, -239.999), Reason::inside));  // radiated in the calorimeter
    CHECK(b.becomes(at(3, 4, 240), Reason::inside));
    CHECK(b.becomes(at(-240, 0, 0), Reason::inside));      // through another side
    CHECK(b.becomes(towards(0, 0, -1), Reason::inside));   // on its way out
    CHECK(b.becomes(towards(1, 0, 0), Reason::inside));
    Box other(100);
    CHECK(passed(*b.model, at(0, 0, -100), other).killed());
    CHECK(!passed(*b.model, at(0, 0, -240), other).killed());
    CHECK(b.becomes(at(0, 0, -240), Reason::answered));
}

void angle_and_offset() {
    Bench b;
    CHECK(b.becomes(towards(std::tan(0.0499), 0, 1), Reason::answered));
    CHECK(b.becomes(towards(0, std::tan(0.0501), 1), Reason::angle));
    Settings settings;
    settings.max_angle = 0.3, settings.max_offset = 5;
    Bench wide(settings);
    CHECK(wide.becomes(towards(std::tan(0.299), 0, 1), Reason::answered));
    CHECK(wide.becomes(at(3, 4, -240), Reason::answered));
    CHECK(wide.becomes(at(3, -4.001, -240), Reason::offset));
}

void several_faces() {
    Settings settings;  // the front, and the side of low x, whose own x is the solid's y
    settings.faces = {Face{{0, 0, -240}}, Face{{-240, 50, 0}, {0, 1, 0}, {0, 0, 1}}};
    settings.max_offset = 20;
    Bench b(settings);
    CHECK(b.becomes(at(0, 0, -240), Reason::answered));
    Particle p = towards(1, 0.03, 0);
    p.position = {-240, 60, 5};
    CHECK(b.becomes(p, Reason::answered));
    CHECK(near(b.answers.back().direction, {p.direction.y(), 0, p.direction.x()}));
    // Voxel 2 at x = 20, z = 25 of the face, inclined along it.
    const G4ThreeVector local = G4ThreeVector(-240, 60, 5) + G4ThreeVector(25, 20 + 25 * 0.03, 0);
    CHECK(near(b.answers.back().hits[1].position, geant4_double::to_world.TransformPoint(local)));
    p.position = {-240, 71, 0};
    CHECK(b.becomes(p, Reason::offset));
    p.position = {240, 60, 5};
    CHECK(b.becomes(p, Reason::inside));
}

void barrels() {
    const double radius = 1800, at = 0.3 + 3 * 0.7853981633974483, c = std::cos(at), s = std::sin(at);
    Settings settings;
    settings.faces = barrel(radius, 8, 0.3, 10);
    Bench b(settings, fake::of(true, true));
    auto particle = [&](double around, double z, double outwards = 0) {
        Particle p;
        p.position = G4ThreeVector(c, s, 0), p.position = (radius + outwards) * p.position + around * G4ThreeVector(-s, c, 0) + G4ThreeVector(0, 0, z);
        p.direction = 0.8 * G4ThreeVector(c, s, 0) + 0.36 * G4ThreeVector(-s, c, 0) + 0.48 * G4ThreeVector(0, 0, 1);
        return p;
    };
    const Particle p = particle(30, -900);
    CHECK(b.becomes(p, Reason::answered));
    CHECK((b.answers.back().direction - G4ThreeVector(0.36, 0.48, 0.8)).mag2() < 1e-18);
    // Point 1 at (-3, 4) in layer 1, 15 mm deep.
    const G4ThreeVector local = p.position + 15 * G4ThreeVector(c, s, 0) - 3 * G4ThreeVector(-s, c, 0) + G4ThreeVector(0, 0, 4);
    CHECK((b.answers.back().hits[1].position - geant4_double::to_world.TransformPoint(local)).mag2() < 1e-18);
    const double half = radius * std::tan(3.141592653589793 / 8);
    CHECK(b.becomes(particle(half - 10.01, 0), Reason::answered));
    CHECK(b.becomes(particle(9.99 - half, 0), Reason::inside));  // in the margin
    CHECK(b.becomes(particle(half + 200, 0), Reason::inside));   // in the next stave, where the face would go on
    CHECK(b.becomes(particle(0, 0, 1), Reason::inside));
}

void energy_closes() {
    for (int per_voxel : {1, 7}) {
        Settings settings;
        settings.spots_per_voxel = per_voxel;
        Bench b(settings);
        const Step step = b.pass(at(1, 2, -240));
        const Answer& a = b.answers.back();
        CHECK(a.hits.size() == size_t(3 * per_voxel));
        double sum = 0;
        for (const Hit& hit : a.hits) sum += hit.energy;
        CHECK(std::abs(sum - 4.75) < 1e-12);
        CHECK(sum == a.deposited);
        CHECK(step.energy() == a.deposited);
        CHECK(step.killed());
        CHECK(step.length() == 0);
        CHECK(a.energy == 20000);
        CHECK(a.time == 7.5);
        CHECK(b.model->report().hits == a.hits.size());
        CHECK(b.model->report().deposited == a.deposited);
        CHECK(b.model->report().energy == 20000);
    }
}

void places_of_voxels() {
    Bench b;
    Particle p = towards(0.02, -0.03, 1);
    p.position = {11, 12, -240};
    CHECK(b.becomes(p, Reason::answered));
    CHECK(fake::state.particle.direction[0] == 0);
    CHECK(fake::state.particle.direction[2] == 1);  // all that the model knows
    const Hit& last = b.answers.back().hits.back();
    const G4ThreeVector local(11 + 30 + 35 * 0.02, 12 - 35 * 0.03, -240 + 35);
    CHECK(near(last.position, geant4_double::to_world.TransformPoint(local)));
    CHECK(last.layer == 3 && last.voxel == 3 && last.energy == 3);
}

void places_of_points() {
    Bench b({}, fake::of(true, true));
    Particle p = towards(0.6, 0, 0.8);  // any direction inwards, unless the model says no
    p.position = {11, 12, -240};
    CHECK(b.becomes(p, Reason::answered));
    CHECK(std::abs(fake::state.particle.direction[0] - 0.6) < 1e-15);
    const Answer& a = b.answers.back();
    CHECK(a.hits.size() == 2);
    CHECK(near(a.hits[1].position, geant4_double::to_world.TransformPoint({11 - 3, 12 + 4, -240 + 15})));
    CHECK(a.deposited == 2.75);
    fake::state.status = CF_OUTSIDE;
    CHECK(b.becomes(p, Reason::angle));
    fake::state.status = CF_OK;
    CHECK(b.becomes(p, Reason::answered));
}

void failed_showers_are_tracked() {
    Bench b;
    fake::state.status = CF_FAILED;
    CHECK(b.becomes({}, Reason::failed));
    const int calls = fake::state.calls;
    fake::state.status = CF_OK;
    CHECK(b.becomes({}, Reason::failed));  // the same one, still at the face
    CHECK(fake::state.calls == calls);
    CHECK(b.becomes(of_energy(20001), Reason::answered));  // another one
    fake::state.error = CF_INTERNAL;
    CHECK(b.becomes(of_energy(20002), Reason::failed));
    fake::state.error = CF_SUCCESS;
    fake::state.deposits[0] = std::numeric_limits<float>::infinity();
    CHECK(b.becomes(of_energy(20003), Reason::failed));
    fake::state.deposits[0] = 1;
    fake::state.status = CF_OUTSIDE;
    CHECK(b.becomes(of_energy(20004), Reason::failed));
    fake::state.status = CF_REDRAWN;
    CHECK(b.becomes({}, Reason::answered));
    CHECK(b.answers.back().redrawn && b.model->report().redrawn == 1);
}

void nothing_is_thrown_into_the_host() {
    Bench b({}, fake::of(true, false));
    fake::state.most = int64_t(1) << 60;  // more than a vector can hold
    CHECK(b.becomes({}, Reason::failed));
    fake::state.most = 1;  // less than there is
    CHECK(b.becomes(of_energy(20001), Reason::failed));
    fake::state.most = 8;
    CHECK(b.becomes(of_energy(20002), Reason::answered));
}

void nobody_asked() {
    Bench b;
    const G4ParticleDefinition photon(22);
    const G4DynamicParticle dynamic(&photon, {0, 0, 1}, 20000);
    const G4Track track(&dynamic, {0, 0, 0}, 0, 1);
    Box box(240);
    const G4FastTrack fast(&track, &box, geant4_double::to_local, geant4_double::to_world);
    Step step;
    b.model->DoIt(fast, step);
    CHECK(!step.killed());
    CHECK(b.answers.empty());
}

void numbers_of_showers() {
    Settings settings;
    settings.seed = 77, settings.first_event = 1000;
    Bench b(settings);
    Particle p;
    p.event = 5, p.track = 9;
    CHECK(b.becomes(p, Reason::answered));
    CHECK(fake::state.seed == 77);
    CHECK(fake::state.number == (uint64_t(1005) << 20) + 9);
    CHECK(b.answers.back().number == fake::state.number);
    CHECK(b.answers.back().event == 1005 && b.answers.back().track == 9);
    p.track = (1 << 20) - 1;
    CHECK(b.becomes(p, Reason::answered));
    p.track = 1 << 20;
    CHECK(b.becomes(p, Reason::number));
    p.track = -1;
    CHECK(b.becomes(p, Reason::number));
    p.track = 1, p.event = -1;
    CHECK(b.becomes(p, Reason::number));
    p.event.reset();
    CHECK(b.becomes(p, Reason::number));
    settings.first_event = (int64_t(1) << 43) - 1;
    Bench last(settings);
    p.event = 0;
    CHECK(last.becomes(p, Reason::answered));
    p.event = 1;
    CHECK(last.becomes(p, Reason::number));
}

template <class Change>
std::string refused(const Change& change) {
    fake::state = fake::of(false, false);
    G4Region region("calorimeter");
    G4Region* where = &region;
    auto model = std::make_shared<const caloforge::Model>("anywhere");
    Sink sink = [](const Answer&, const G4FastTrack&) {};
    Settings settings;
    change(settings, model, sink, where);
    std::string sentence;
    try {
        const FastSimulation made("photons", where, model, sink, settings);
    } catch (const caloforge::Error& error) {
        sentence = error.what();
    }
    // Geant4 keeps a pointer to what is attached.
    CHECK(sentence.empty() || !geant4_double::attached.count(&region));
    geant4_double::attached.clear();
    return sentence;
}

void constructors_refuse() {
    using M = std::shared_ptr<const caloforge::Model>;
    CHECK(refused([](Settings&, M&, Sink&, G4Region*&) {}).empty());
    CHECK(refused([](Settings&, M& model, Sink&, G4Region*&) { model.reset(); }) == "a fast-simulation model needs a model");
    CHECK(refused([](Settings&, M&, Sink&, G4Region*& region) { region = nullptr; }) ==
          "a fast-simulation model needs the region of a calorimeter");
    CHECK(refused([](Settings&, M&, Sink& sink, G4Region*&) { sink = nullptr; }) ==
          "a fast-simulation model needs somebody who takes its hits");
    CHECK(refused([](Settings&, M&, Sink&, G4Region*&) { fake::state.depths = false; }) ==
          "the model does not know the depths of its layers, so its hits have no place");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.max_angle = 1.6; }) == "max_angle is not up to a right angle");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.max_angle = std::nan(""); }) == "max_angle is not up to a right angle");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.max_offset = 0; }) == "max_offset is not above 0");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.min_energy = 2, s.max_energy = 1; }) == "min_energy is above max_energy");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.spots_per_voxel = 0; }) == "spots_per_voxel is not from 1 to 64");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.first_event = -1; }) == "first_event is not from 0 to 2^43");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.tolerance = 2; }) == "tolerance is not from 0 to 1 mm");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.faces = {Face{{}, {1, 0, 0}, {1, 0, 0}}}; }) ==
          "x and y of a face are not unit vectors at a right angle");
    CHECK(refused([](Settings& s, M&, Sink&, G4Region*&) { s.faces = barrel(1000, 8, 0, 500); }) == "a face has no extent");
}

void exceptions_of_the_sink_are_the_hosts() {
    fake::state = fake::of(false, false);
    G4Region region("calorimeter");
    bool broken = true;
    FastSimulation model("photons", &region, std::make_shared<const caloforge::Model>("anywhere"),
                         [&](const Answer&, const G4FastTrack&) { if (broken) throw std::runtime_error("full"); }, {});
    std::string said;
    try {
        passed(model, {});
    } catch (const std::runtime_error& error) {
        said = error.what();
    }
    CHECK(said == "full");
    broken = false;
    CHECK(passed(model, {}).killed());
}

// Takes hits below an energy.
struct Detector : G4VSensitiveDetector, G4VFastSimSensitiveDetector {
    std::vector<G4FastHit> taken;
    Detector() : G4VSensitiveDetector("calorimeter") {}
    G4bool ProcessHits(G4Step*, G4TouchableHistory*) override { return true; }
    G4bool ProcessHits(const G4FastHit* hit, const G4FastTrack*, G4TouchableHistory*) override {
        if (hit->GetEnergy() > 2) return false;
        taken.push_back(*hit);
        return true;
    }
};
struct Plain : G4VSensitiveDetector {
    Plain() : G4VSensitiveDetector("plain") {}
    G4bool ProcessHits(G4Step*, G4TouchableHistory*) override { return true; }
};

void hits_into_sensitive_detectors() {
    for (HitFrame frame : {HitFrame::envelope, HitFrame::world}) {
        fake::state = fake::of(false, false);
        Detector detector;
        Plain plain;
        G4LogicalVolume sensitive(nullptr, nullptr, "cell"), other(nullptr, nullptr, "plain"), dead(nullptr, nullptr, "absorber");
        sensitive.SetSensitiveDetector(&detector);
        other.SetSensitiveDetector(&plain);
        G4VPhysicalVolume cells(&sensitive), plains(&other), absorber(&dead);
        G4VPhysicalVolume* beside = nullptr;
        // By depth in the world: voxel 0 in a cell, 2 beside everything, 3 in a cell that does not want it.
        geant4_double::geometry = [&](const G4ThreeVector& p) { return p.x() > 780 && p.x() < 790 ? beside : &cells; };
        geant4_double::begun_near.clear();
        SensitiveHits hits(frame);
        G4Region region("calorimeter");
        FastSimulation model("photons", &region, std::make_shared<const caloforge::Model>("anywhere"), hits, {});
        fake::state.deposits = {1.5f, 0.f, 0.25f, 3.f};
        CHECK(passed(model, {}).killed());
        CHECK(hits.report().hits == 1);
        CHECK(hits.report().lost == 2);
        CHECK(hits.report().energy == 1.5 && hits.report().lost_energy == 3.25);
        CHECK(hits.report().energy + hits.report().lost_energy == model.report().deposited);
        const G4ThreeVector local(0, 0, -235);
        CHECK(near(detector.taken[0].GetPosition(), frame == HitFrame::world ? geant4_double::to_world.TransformPoint(local) : local));
        // First from the top, then near the last one; after a place without volume from the top again.
        fake::state.deposits = {1.f, 1.f, 1.f, 1.f};
        geant4_double::begun_near.clear();
        CHECK(passed(model, {}).killed());
        CHECK((geant4_double::begun_near == std::vector<bool>{false, true, true, false}));
        beside = &plains;
        const uint64_t lost = hits.report().lost;
        CHECK(passed(model, {}).killed());
        CHECK(hits.report().lost == lost + 1);
        beside = &absorber;
        CHECK(passed(model, {}).killed());
        CHECK(hits.report().lost == lost + 2);
        geant4_double::geometry = [](const G4ThreeVector&) { return nullptr; };
    }
}

void reports_add_up() {
    Bench a, b;
    CHECK(a.becomes({}, Reason::answered));
    CHECK(b.becomes({}, Reason::answered));
    CHECK(b.becomes(of_energy(1), Reason::below));
    Report sum = a.model->report();
    sum += b.model->report();
    CHECK(sum.of(Reason::answered) == 2 && sum.of(Reason::below) == 1);
    CHECK(sum.hits == 6 && sum.energy == 40000 && sum.deposited == 9.5);
    CHECK(std::string(text_of(Reason::inside)) == "not at a face");
}

}  // namespace

int main() {
    const std::pair<const char*, void (*)()> cases[] = {
#define CASE(name) {#name, name}
        CASE(species), CASE(trained_energies), CASE(only_at_the_face), CASE(angle_and_offset), CASE(several_faces), CASE(barrels),
        CASE(energy_closes), CASE(places_of_voxels), CASE(places_of_points), CASE(failed_showers_are_tracked), CASE(nothing_is_thrown_into_the_host),
        CASE(nobody_asked), CASE(numbers_of_showers), CASE(constructors_refuse), CASE(exceptions_of_the_sink_are_the_hosts),
        CASE(hits_into_sensitive_detectors), CASE(reports_add_up)};
    for (const auto& [name, run] : cases) {
        const int before = wrong;
        run();
        if (wrong == before) std::printf("held %s\n", name);
    }
    return wrong != 0;
}
