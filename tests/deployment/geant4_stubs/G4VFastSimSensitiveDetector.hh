#pragma once
#include "G4FastHit.hh"
#include "G4FastTrack.hh"
#include "G4TouchableHandle.hh"
#include "G4TouchableHistory.hh"
#include "G4VSensitiveDetector.hh"
class G4VFastSimSensitiveDetector {
public:
    virtual ~G4VFastSimSensitiveDetector() = default;
    G4bool Hit(const G4FastHit* hit, const G4FastTrack* track, G4TouchableHandle* touchable) {
        return ProcessHits(hit, track, static_cast<G4TouchableHistory*>((*touchable)()));
    }

private:
    virtual G4bool ProcessHits(const G4FastHit*, const G4FastTrack*, G4TouchableHistory*) = 0;
};
