#pragma once
#include "globals.hh"
class G4FastStep {
public:
    G4FastStep() = default;
    virtual ~G4FastStep() = default;
    void KillPrimaryTrack();
    void ProposePrimaryTrackPathLength(G4double length) { length_ = length; }
    void ProposeTotalEnergyDeposited(G4double energy) { energy_ = energy; }
    G4double GetTotalEnergyDeposited() const { return energy_; }

protected:
    const void* track_ = nullptr;
    int status_ = 0, control_ = 0;  // at 16; fStopAndKill is 2
    double energy_ = 0, other_ = 0, length_ = -1;  // at 24, 32, 40
};
