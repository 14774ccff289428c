#pragma once
#include "globals.hh"
class G4FastSimulationManager;
class G4LogicalVolume;
class G4Region {
public:
    explicit G4Region(const G4String& name);
    G4FastSimulationManager* GetFastSimulationManager() const;
    void AddRootLogicalVolume(G4LogicalVolume* volume, G4bool search = true);
};
using G4Envelope = G4Region;
