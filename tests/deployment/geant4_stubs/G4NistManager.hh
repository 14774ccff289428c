#pragma once
#include "globals.hh"
class G4Material {};
class G4NistManager {
public:
    static G4NistManager* Instance();
    G4Material* FindOrBuildMaterial(const G4String& name);
};
