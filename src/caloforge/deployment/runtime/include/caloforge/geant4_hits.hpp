// Hits of a shower into Geant4's sensitive detectors: finds the volume of each, and gives it to the G4VFastSimSensitiveDetector
// that stands there. Counts what falls beside all of them, which Geant4's own G4FastSimHitMaker passes over.
#pragma once

#include <G4FastHit.hh>
#include <G4LogicalVolume.hh>
#include <G4Navigator.hh>
#include <G4TouchableHandle.hh>
#include <G4TouchableHistory.hh>
#include <G4TransportationManager.hh>
#include <G4VFastSimSensitiveDetector.hh>
#include <G4VPhysicalVolume.hh>
#include <G4VSensitiveDetector.hh>

#include "geant4.hpp"

namespace caloforge::geant4 {

// In which frame sensitive detectors get the position of a hit.
enum class HitFrame {
    envelope,  // as from G4FastSimHitMaker
    world      // as DD4hep's want it
};

// A Sink; copies share their counts and their navigator, so each thread needs one of its own.
class SensitiveHits {
public:
    struct Report {
        uint64_t hits = 0, lost = 0;           // taken by a sensitive detector; taken by none
        double energy = 0, lost_energy = 0;    // MeV
    };

    explicit SensitiveHits(HitFrame frame = HitFrame::envelope) : frame_(frame), state_(std::make_shared<State>()) {}

    const Report& report() const { return state_->report; }

    void operator()(const Answer& answer, const G4FastTrack& track) const {
        State& s = *state_;
        G4VPhysicalVolume* world = G4TransportationManager::GetTransportationManager()->GetNavigatorForTracking()->GetWorldVolume();
        if (s.navigator.GetWorldVolume() != world) s.navigator.SetWorldVolume(world);
        bool near = false;  // whether the place of the last hit says where to begin
        for (const Hit& hit : answer.hits) {
            s.navigator.LocateGlobalPointAndUpdateTouchable(hit.position, s.touchable(), near);
            const G4VPhysicalVolume* volume = s.touchable()->GetVolume();
            near = volume != nullptr;
            auto* detector = volume ? dynamic_cast<G4VFastSimSensitiveDetector*>(volume->GetLogicalVolume()->GetSensitiveDetector()) : nullptr;
            const G4FastHit fast(
                frame_ == HitFrame::world ? hit.position : track.GetAffineTransformation()->TransformPoint(hit.position), hit.energy);
            if (detector && detector->Hit(&fast, &track, &s.touchable)) {
                ++s.report.hits;
                s.report.energy += hit.energy;
            } else {
                ++s.report.lost;
                s.report.lost_energy += hit.energy;
            }
        }
    }

private:
    struct State {
        G4Navigator navigator;
        G4TouchableHandle touchable{new G4TouchableHistory};
        Report report;
    };
    HitFrame frame_;
    std::shared_ptr<State> state_;
};

}  // namespace caloforge::geant4
