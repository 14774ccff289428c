#pragma once
#include "globals.hh"
class G4ParticleDefinition {
public:
    explicit G4ParticleDefinition(int pdg) : pdg_(pdg) {}
    virtual ~G4ParticleDefinition() = default;
    G4int GetPDGEncoding() const { return pdg_; }

private:
    char before_[264] = {};
    int pdg_;  // at 272
};
