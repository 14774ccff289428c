#pragma once
#include "globals.hh"
class G4Event {
public:
    explicit G4Event(int number) : number_(number) {}
    G4int GetEventID() const { return number_; }

private:
    int number_;  // at 0
};
