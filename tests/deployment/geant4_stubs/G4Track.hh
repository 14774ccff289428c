#pragma once
#include "G4ParticleDefinition.hh"
#include "G4ThreeVector.hh"
class G4DynamicParticle {
public:
    G4DynamicParticle(const G4ParticleDefinition* definition, const G4ThreeVector& direction, double energy)
        : direction_(direction), definition_(definition), energy_(energy) {}
    const G4ThreeVector& GetMomentumDirection() const { return direction_; }
    const G4ParticleDefinition* GetDefinition() const { return definition_; }
    G4double GetKineticEnergy() const { return energy_; }

private:
    G4ThreeVector direction_;
    char polarisation_[24] = {};
    const G4ParticleDefinition* definition_;  // at 48
    char between_[24] = {};
    double energy_;  // at 80
};
class G4Track {
public:
    G4Track(const G4DynamicParticle* particle, const G4ThreeVector& position, double time, int number)
        : position_(position), time_(time), particle_(particle), number_(number) {}
    const G4ThreeVector& GetPosition() const { return position_; }
    G4double GetGlobalTime() const { return time_; }
    const G4DynamicParticle* GetDynamicParticle() const { return particle_; }
    G4double GetKineticEnergy() const { return particle_->GetKineticEnergy(); }
    const G4ThreeVector& GetMomentumDirection() const { return particle_->GetMomentumDirection(); }
    G4int GetTrackID() const { return number_; }

private:
    G4ThreeVector position_;
    double time_;  // at 24
    char before_[48] = {};
    const G4DynamicParticle* particle_;  // at 80
    char between_[176] = {};
    int number_;  // at 264
};
