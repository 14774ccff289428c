// The DD4hep plug-in against stubs: properties, a barrel, the frame of hits, what it refuses. Prints as cases.cpp does.
#include "double.hpp"
#include "fake_runtime.hpp"

#include "CaloForgeShowerModel.cpp"

using dd4hep::sim::CaloForgeShowerModel;
using geant4_double::passed;

namespace {

int wrong = 0;
#define CHECK(x) ((x) ? void() : (std::printf("line %d: %s\n", __LINE__, #x), void(++wrong)))

struct Cell : G4VSensitiveDetector, G4VFastSimSensitiveDetector {
    std::vector<G4FastHit> taken;
    Cell() : G4VSensitiveDetector("cell") {}
    G4bool ProcessHits(G4Step*, G4TouchableHistory*) override { return true; }
    G4bool ProcessHits(const G4FastHit* hit, const G4FastTrack*, G4TouchableHistory*) override {
        taken.push_back(*hit);
        return true;
    }
};

struct Plugin {
    G4Region region{"EcalBarrelRegion"};
    CaloForgeShowerModel action{nullptr, "photons"};
    Plugin() {
        fake::state = fake::of(false, false);
        action.regions["EcalBarrelRegion"] = &region;
        action.set("RegionName", std::string("EcalBarrelRegion"));
        action.set("Enable", true);
        action.set("ModelPath", std::string("anywhere"));
    }
    ~Plugin() { delete action.model(); }
    std::string refusal() {
        try {
            action.constructSensitives(nullptr);
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return "";
    }
};

void answers_in_a_barrel() {
    Cell cell;
    G4LogicalVolume volume(nullptr, nullptr, "cell");
    volume.SetSensitiveDetector(&cell);
    G4VPhysicalVolume cells(&volume);
    geant4_double::geometry = [&](const G4ThreeVector&) { return &cells; };
    Plugin p;
    p.action.set("Seed", 77L);
    p.action.set("FirstEvent", 10L);
    p.action.set("BarrelRadius", 1800.0);
    p.action.set("BarrelSides", 8);
    p.action.set("MaxAngle", 0.1);
    CHECK(p.refusal().empty());
    CHECK(p.action.added == &p.region);
    geant4_double::Particle particle;
    particle.position = {0, 1800, 40}, particle.direction = {0, 1, 0}, particle.event = 3, particle.track = 4;
    CHECK(passed(*p.action.model(), particle).killed());
    CHECK(fake::state.seed == 77 && fake::state.number == (uint64_t(13) << 20) + 4);
    CHECK(cell.taken.size() == 3);
    // The side at the envelope's y: its local x is -x, y is z. DD4hep wants places in the world.
    CHECK((cell.taken[1].GetPosition() - geant4_double::to_world.TransformPoint({-20, 1825, 40})).mag2() < 1e-12);
    particle.position = {0, 1800.1, 40};
    CHECK(!passed(*p.action.model(), particle).killed());
    geant4_double::geometry = [](const G4ThreeVector&) { return nullptr; };
}

void further_faces() {
    Plugin p;
    p.action.set("Faces", std::vector<double>{0, 0, 2000, 1, 0, 0, 0, 1, 0, 0, 0, -2000, 1, 0, 0, 0, -1, 0});
    CHECK(p.refusal().empty());
    geant4_double::Particle particle;
    particle.position = {100, 200, -2000}, particle.direction = {0, 0, -1};
    CHECK(passed(*p.action.model(), particle).killed());
    particle.direction = {0, 0, 1};
    CHECK(!passed(*p.action.model(), particle).killed());
}

void disabled() {
    Plugin p;
    p.action.set("Enable", false);
    CHECK(p.refusal().empty());
    CHECK(p.action.model() == nullptr && p.action.added == nullptr);
}

void refuses() {
    {
        Plugin p;
        p.action.set("Seed", -1L);
        CHECK(p.refusal() == "photons: Seed is below 0");
        CHECK(p.action.added == nullptr);
    }
    {
        Plugin p;
        p.action.set("Faces", std::vector<double>(8, 0.0));
        CHECK(p.refusal() == "photons: Faces needs nine numbers for each: origin, x and y");
    }
    {
        Plugin p;
        p.action.set("BarrelRadius", 1.0);
        p.action.set("BarrelSides", 2);
        CHECK(p.refusal() == "photons: BarrelSides is below 3");
    }
    {
        Plugin p;
        p.action.set("SpotsPerVoxel", 99);
        CHECK(p.refusal() == "photons: spots_per_voxel is not from 1 to 64");
    }
}

}  // namespace

int main() {
    const std::pair<const char*, void (*)()> cases[] = {
#define CASE(name) {#name, name}
        CASE(answers_in_a_barrel), CASE(further_faces), CASE(disabled), CASE(refuses)};
    for (const auto& [name, run] : cases) {
        const int before = wrong;
        run();
        if (wrong == before) std::printf("held %s\n", name);
    }
    return wrong != 0;
}
