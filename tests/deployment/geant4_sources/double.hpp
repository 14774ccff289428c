// A double of Geant4 for the adapter: what the stubs declare, and one particle at a time, asked about as Geant4 asks.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include <G4EventManager.hh>
#include <G4FastSimulationManager.hh>
#include <G4LogicalVolume.hh>
#include <G4Navigator.hh>
#include <G4TouchableHistory.hh>
#include <G4TransportationManager.hh>
#include <G4VFastSimulationModel.hh>

#include "caloforge/geant4.hpp"

namespace geant4_double {

inline std::map<const G4Region*, std::vector<G4VFastSimulationModel*>> attached;
// The volume at a point, and whether the navigator was told to begin where it was.
inline std::function<G4VPhysicalVolume*(const G4ThreeVector&)> geometry = [](const G4ThreeVector&) { return nullptr; };
inline std::vector<bool> begun_near;
inline G4LogicalVolume world_volume(nullptr, nullptr, "world");
inline G4VPhysicalVolume world(&world_volume);

}  // namespace geant4_double

inline G4Region::G4Region(const G4String&) {}
inline G4FastSimulationManager* G4Region::GetFastSimulationManager() const { return nullptr; }
inline G4VFastSimulationModel::G4VFastSimulationModel(const G4String& name) : name_(name) {}
inline G4VFastSimulationModel::G4VFastSimulationModel(const G4String& name, G4Envelope* envelope, G4bool) : name_(name) {
    geant4_double::attached[envelope].push_back(this);
}
inline void G4FastStep::KillPrimaryTrack() { status_ = 2; }
inline G4EventManager* G4EventManager::GetEventManager() {
    static thread_local G4EventManager manager;  // as in Geant4
    return &manager;
}
inline void G4Navigator::LocateGlobalPointAndUpdateTouchable(const G4ThreeVector& point, G4VTouchable* touchable, const G4bool relative) {
    geant4_double::begun_near.push_back(relative);
    dynamic_cast<G4TouchableHistory&>(*touchable).volume = geant4_double::geometry(point);
}
inline G4TransportationManager* G4TransportationManager::GetTransportationManager() {
    static G4TransportationManager manager;
    return &manager;
}
inline G4Navigator* G4TransportationManager::GetNavigatorForTracking() const {
    static G4Navigator navigator;
    navigator.SetWorldVolume(&geant4_double::world);
    return &navigator;
}

namespace geant4_double {

struct Box : G4VSolid {
    double half;
    explicit Box(double h) : half(h) {}
    void BoundingLimits(G4ThreeVector& low, G4ThreeVector& high) const override {
        low = {-half, -half, -half}, high = {half, half, half};
    }
};

class Step : public G4FastStep {
public:
    bool killed() const { return status_ == 2; }
    double energy() const { return energy_; }
    double length() const { return length_; }
};

// A particle in the frame of the envelope.
struct Particle {
    double energy = 20000;
    G4ThreeVector position{0, 0, -240}, direction{0, 0, 1};
    int pdg = 22, track = 1;
    std::optional<int> event = 0;
};

// The envelope in the world: local x, y, z are its y, z, x, and it stands beside the origin.
inline const G4AffineTransform to_world({0, 1, 0}, {0, 0, 1}, {1, 0, 0}, {1000, 20, 30});
inline const G4AffineTransform to_local({0, 0, 1}, {1, 0, 0}, {0, 1, 0}, {-20, -30, -1000});

// Ask about a particle at the beginning of a step, and let the model do its work if it wants to; what became of the particle.
inline Step passed(G4VFastSimulationModel& model, const Particle& p, Box box = Box(240)) {
    const G4ParticleDefinition definition(p.pdg);
    const G4DynamicParticle dynamic(&definition, to_world.TransformAxis(p.direction), p.energy);
    const G4Track track(&dynamic, to_world.TransformPoint(p.position), 7.5, p.track);
    const G4FastTrack fast(&track, &box, to_local, to_world);
    const G4Event event(p.event.value_or(0));
    G4EventManager::GetEventManager()->event_ = p.event ? const_cast<G4Event*>(&event) : nullptr;
    Step step;
    if (model.IsApplicable(definition) && model.ModelTrigger(fast)) model.DoIt(fast, step);
    G4EventManager::GetEventManager()->event_ = nullptr;
    return step;
}

}  // namespace geant4_double
