#pragma once
#include "G4Navigator.hh"
class G4TransportationManager {
public:
    static G4TransportationManager* GetTransportationManager();
    G4Navigator* GetNavigatorForTracking() const;
};
