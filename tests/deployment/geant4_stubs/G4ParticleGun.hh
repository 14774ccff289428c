#pragma once
#include "G4ThreeVector.hh"
class G4Event;
class G4ParticleDefinition;
class G4ParticleGun {
public:
    explicit G4ParticleGun(G4int) {}
    virtual ~G4ParticleGun() = default;
    void SetParticleDefinition(G4ParticleDefinition* definition) { definition_ = definition; }
    void SetParticleEnergy(G4double energy) { energy_ = energy; }
    void SetParticleMomentumDirection(G4ThreeVector direction) { direction_ = direction; }
    void SetParticlePosition(G4ThreeVector position) { position_ = position; }
    virtual void GeneratePrimaryVertex(G4Event* event);

private:
    G4ParticleDefinition* definition_ = nullptr;
    G4double energy_ = 0;
    G4ThreeVector direction_, position_;
};
