#pragma once
#include "G4ParticleDefinition.hh"
class G4ParticleTable {
public:
    static G4ParticleTable* GetParticleTable();
    G4ParticleDefinition* FindParticle(const G4String& name);
};
