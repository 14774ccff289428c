#pragma once
#include "G4TouchableHandle.hh"
#include "globals.hh"
class G4StepPoint {
public:
    const G4TouchableHandle& GetTouchableHandle() const { return touchable_; }

private:
    G4TouchableHandle touchable_;
};
class G4Step {
public:
    G4StepPoint* GetPreStepPoint() const { return before_; }
    G4double GetTotalEnergyDeposit() const { return energy_; }

private:
    G4StepPoint* before_ = nullptr;
    G4double energy_ = 0;
};
