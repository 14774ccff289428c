#pragma once
#include "G4RunManager.hh"
enum class G4RunManagerType { Serial, MT };
class G4RunManagerFactory {
public:
    static G4RunManager* CreateRunManager(G4RunManagerType type);
};
