#pragma once
#include "G4VModularPhysicsList.hh"
#include "globals.hh"
class G4FastSimulationPhysics : public G4VPhysicsConstructor {
public:
    void ActivateFastSimulation(const G4String& particle, const G4String& parallel = "");
};
