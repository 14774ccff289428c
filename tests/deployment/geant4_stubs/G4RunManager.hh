#pragma once
#include "globals.hh"
class G4VUserActionInitialization;
class G4VUserDetectorConstruction;
class G4VUserPhysicsList;
class G4RunManager {
public:
    virtual ~G4RunManager() = default;
    virtual void SetUserInitialization(G4VUserDetectorConstruction* detector);
    virtual void SetUserInitialization(G4VUserPhysicsList* physics);
    virtual void SetUserInitialization(G4VUserActionInitialization* actions);
    virtual void Initialize();
    virtual void BeamOn(G4int events, const char* macro = nullptr, G4int select = -1);
};
