#pragma once
#include "G4Region.hh"
class G4VFastSimulationModel;
class G4FastSimulationManager {
public:
    explicit G4FastSimulationManager(G4Region* region, G4bool unique = false);
    void AddFastSimulationModel(G4VFastSimulationModel* model);
};
