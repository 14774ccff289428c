#pragma once
#include "globals.hh"
class G4Step;
class G4TouchableHistory;
class G4HCofThisEvent;
class G4VSensitiveDetector {
public:
    explicit G4VSensitiveDetector(const G4String& name) : name_(name) {}
    virtual ~G4VSensitiveDetector() = default;
    virtual void Initialize(G4HCofThisEvent*) {}
    virtual void EndOfEvent(G4HCofThisEvent*) {}
    G4String GetName() const { return name_; }

protected:
    virtual G4bool ProcessHits(G4Step*, G4TouchableHistory*) = 0;

private:
    G4String name_;
};
